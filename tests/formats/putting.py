"""Putting: wanted values sent into a file through a layer's weight, and the file read again."""

from collections.abc import Mapping
from pathlib import Path

import torch

from lipaudit.formats import detect
from lipaudit.formats.atomic import staged
from lipaudit.graph.constant import Constant, put_of
from lipaudit.graph.model import Model
from lipaudit.layers import network
from lipaudit.layers.base import AbstractLinearLayer

UNITS = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def weights(model: Model, **shapes: tuple[int, ...]) -> dict[str, Constant]:
    """Return the main weight of every layer that has one, by node name."""
    steps = network.build(model.graph, shapes or None).steps
    return {
        step.node.name: step.layer.weights()[0]
        for step in steps
        if isinstance(step.layer, AbstractLinearLayer)
    }


def wanted_like(constant: Constant, seed: int = 0) -> torch.Tensor:
    """Make up values of about the size that the constant has."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(constant.shape, generator=generator, dtype=torch.float64)
    return values * float(constant.values().abs().max())


def write(model: Model, patch: Mapping[str, torch.Tensor], out: Path) -> None:
    """Write a copy with other tensors, each cast to the type in which it is stored."""
    cast = {
        key: values.to(getattr(torch, model.tensors[key].dtype)) for key, values in patch.items()
    }
    with staged(out, originals=model.files, force=False) as stage:
        stage.write(detect.format_of(model).changed(model, cast))
        stage.commit(originals=model.files, force=False)


def rewritten(
    path: Path, out: Path, name: str, wanted: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put values into a layer; return them and what the layer of the written file has."""
    model = detect.read_model(str(path))
    weight = weights(model)[name]
    wanted = wanted_like(weight) if wanted is None else wanted
    put = put_of(weight)
    assert put is not None
    write(model, put(wanted), out)
    return wanted, weights(detect.read_model(str(out)))[name].values()


def assert_near(made: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    """Compare to a few roundings of the stored type, relative to the largest entry."""
    torch.testing.assert_close(
        made.to(torch.float64),
        wanted,
        rtol=4 * UNITS[dtype],
        atol=1e-12 * float(wanted.abs().max()),
    )
