"""Kernels of trained models in a folder of the user's, as data."""

from pathlib import Path

import torch

from lipaudit import api
from lipaudit.errors import LipauditError
from lipaudit.graph.constant import Constant

_SMALLEST = 16
"""Fewer channels than this on either side are over in no time for everybody."""
_MOST = 9
"""Kernels that are taken, the widest ones, one for each shape of a file."""


def kernels(folder: Path) -> list[tuple[str, torch.Tensor]]:
    """Return (name, kernel) of the widest square 3x3 kernels in the folder, float64."""
    found: dict[tuple[str, tuple[int, ...]], tuple[str, Constant]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        for name, constant in _constants(file):
            label = f"{file.relative_to(folder)} {name}"
            found[str(file), constant.shape] = (label, constant)
    widest = sorted(found.values(), key=lambda item: (-item[1].items, item[0]))[:_MOST]
    return [(label, constant.read().to(torch.float64)) for label, constant in widest]


def _constants(file: Path) -> list[tuple[str, Constant]]:
    """Return the weights of 3x3 convolutions in one file, [] if it is no checkpoint."""
    try:
        model = api.load(file)
    except LipauditError:
        return []
    return [
        (name.removeprefix("state_dict/module."), constant)
        for name, constant in model.tensors.items()
        if constant.shape[2:] == (3, 3)
        and min(constant.shape[:2]) >= _SMALLEST
        and constant.dtype.startswith("float")
        # The moments that an optimizer keeps have the shapes of the weights.
        and not name.startswith("optimizer")
    ]
