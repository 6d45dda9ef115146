"""A file of spectra: every layer's singular values as arrays, in NumPy's .npz.

An .npz is a zip whose members are named by the arrays, and layer names are hostile text. So a
name that could not be a plain file name gets a plain key; the arrays `__names__`, `__models__`
and `__keys__` say which key is whose.
"""

import io
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipaudit.formats import outputs
from lipaudit.operators.spectrum import Spectrum

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")
_TAKEN = frozenset(
    {"file", "allow_pickle"}  # what `numpy.savez_compressed` calls its own arguments
    | {f"__{x}__" for x in ("keys", "names", "models", "of", "method", "rigor", "radius")}
    | {"__complete__"}
)
_LONGEST = 300
"""Characters of a name that the index keeps: its rows are as wide as the longest."""


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """One spectrum on its way into the file."""

    model: str
    name: str
    spectrum: Spectrum


def unique(name: str, taken: Container[str]) -> str:
    """Return the name, numbered if it is taken already."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def keys(names: Sequence[str]) -> list[str]:
    """Return a different plain file name for every layer, its own name where that is one."""
    taken = set(_TAKEN)
    found = []
    for name in names:
        plain = name if _PLAIN.fullmatch(name) else _ODD.sub("_", name[:_LONGEST]).strip("._-")[:80]
        key, number = plain or "layer", 1
        # Never told apart by case alone: some file systems would write one over the other.
        while key.lower() in taken:
            number += 1
            key = f"{plain or 'layer'}-{number}"
        taken.add(key.lower())
        found.append(key)
    return found


def write(path: Path, spectra: Sequence[Exported], *, models: Sequence[Path], force: bool) -> None:
    """Write the file, whole or not at all; never over one of the models."""
    found = keys([item.name for item in spectra])
    arrays = dict(zip(found, (item.spectrum.values for item in spectra), strict=True))
    index = {
        "__keys__": np.array(found, dtype=np.str_),
        "__names__": np.array([item.name[:_LONGEST] for item in spectra], dtype=np.str_),
        "__models__": np.array([item.model for item in spectra], dtype=np.str_),
        "__of__": np.array([item.spectrum.of or "the layer" for item in spectra], dtype=np.str_),
        "__method__": np.array([item.spectrum.method for item in spectra], dtype=np.str_),
        "__rigor__": np.array([item.spectrum.rigor.label for item in spectra], dtype=np.str_),
        "__radius__": np.array([item.spectrum.radius for item in spectra], dtype=np.float64),
        "__complete__": np.array([_is_complete(item.spectrum) for item in spectra], dtype=np.bool_),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays, **index)
    outputs.put({path: packed.getvalue()}, originals=models, force=force)


def _is_complete(spectrum: Spectrum) -> bool:
    return bool(spectrum.values.size == min(spectrum.rows, spectrum.columns))
