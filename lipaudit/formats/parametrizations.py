"""Parametrizations: weights that a module computes from stored tensors before it uses them.

weight_norm keeps g and v, W = g v / ‖v‖; spectral_norm keeps W0 and the vectors of its power
iteration, W = W0 / (uᵀ W0 v), the same u and v at every evaluation in inference mode.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import torch_type

_UNIT = 2.0**-53


@dataclass(frozen=True, slots=True)
class _Scheme:
    """Names of the stored tensors, relative to the module, and how the weight comes of them."""

    parts: tuple[str, ...]
    target: str
    make: Callable[[str, tuple[Constant, ...]], Constant | None]


def effective(tensors: Mapping[str, Constant]) -> dict[str, Constant]:
    """Return the tensors with each parametrized weight in the place of its first part."""
    replaced: dict[str, Constant] = {}
    gone: set[str] = set()
    for scheme in _SCHEMES:
        for prefix in _prefixes(tensors, scheme):
            parts = tuple(tensors[prefix + part] for part in scheme.parts)
            made = scheme.make(prefix + scheme.target, parts)
            if made is not None:
                replaced[prefix + scheme.parts[0]] = made
                gone.update(prefix + part for part in scheme.parts[1:])
    return {
        (replaced[key].name if key in replaced else key): replaced.get(key, constant)
        for key, constant in tensors.items()
        if key not in gone
    }


def _prefixes(tensors: Mapping[str, Constant], scheme: _Scheme) -> Iterator[str]:
    first = scheme.parts[0]
    for key in tensors:
        prefix = key.removesuffix(first)
        if prefix != key and all(prefix + part in tensors for part in scheme.parts):
            yield prefix


def target(key: str) -> str:
    """Return the key of the weight that is computed of the tensor stored under a key."""
    before, found, rest = key.rpartition("parametrizations.")
    if found:
        return before + rest.partition(".")[0]
    for ending in ("_orig", "_g", "_v"):
        key = key.removesuffix(ending)
    return key


def weight_norm(name: str, g: Constant, v: Constant) -> Constant:
    """W = g v / ‖v‖, the norm over all axes along which g has size 1."""
    axes = [axis for axis, size in enumerate(g.shape) if size == 1]
    terms = math.prod(v.shape[axis] for axis in axes) if g.shape else v.items

    def exact() -> torch.Tensor:
        values = v.values()
        if axes or not g.shape:
            size = values.square().sum(axes, keepdim=bool(g.shape)).sqrt()
        else:
            size = values.abs()
        return g.values() * values / size

    # A sum of squares of n terms is wrong by γ_n, its root by half; 4 more roundings follow.
    error = 2 * (terms + 8) * _UNIT
    made = _computed(name, (v, g), exact, error)
    return replace(made, sources=(g.name, v.name), scaled_by=g.name)


def spectral_norm(name: str, parts: tuple[Constant, Constant, Constant], axis: int) -> Constant:
    """W = W0 / (uᵀ W0 v), the weight laid out as a matrix whose rows are counted by one axis."""
    original, u, v = parts

    def matrix() -> torch.Tensor:
        return original.values().movedim(axis, 0).reshape(u.items, -1)

    def exact() -> torch.Tensor:
        sigma = u.values().flatten() @ matrix() @ v.values().flatten()
        return original.values() / sigma

    error = _sigma_error(matrix(), u.values().flatten(), v.values().flatten())
    return _computed(name, parts, exact, error)


def _computed(
    name: str, parts: tuple[Constant, ...], exact: Callable[[], torch.Tensor], error: float
) -> Constant:
    """Return a constant like the first part, which runs in its type and is measured in float64."""
    shape, dtype = parts[0].shape, parts[0].dtype
    return Constant(
        name=name,
        shape=shape,
        dtype=dtype,
        read=lambda: exact().to(torch_type(dtype)),
        sources=tuple(part.name for part in parts),
        entry_error=error,
        unrounded=exact,
    )


def _joined(name: str, parts: tuple[Constant, ...]) -> Constant | None:
    g, v = parts
    return weight_norm(name, g, v) if len(g.shape) in {0, len(v.shape)} else None


def _divided(name: str, parts: tuple[Constant, ...]) -> Constant | None:
    original, u, v = parts
    rows = [axis for axis in (0, 1) if original.shape[axis : axis + 1] == (u.items,)]
    if not rows or original.items != u.items * v.items:
        return None
    return spectral_norm(name, (original, u, v), rows[0])


def _sigma_error(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """Bound the relative error of uᵀ W v: its terms may cancel, so compare with their moduli."""
    sigma = abs(float(left @ matrix @ right))
    moduli = float(left.abs() @ matrix.abs() @ right.abs())
    terms = left.numel() + right.numel() + 8
    return 4 * terms * _UNIT * moduli / sigma if sigma > 0 else math.inf


_SCHEMES = (
    _Scheme(("weight_g", "weight_v"), "weight", _joined),
    _Scheme(
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        "weight",
        _joined,
    ),
    _Scheme(("weight_orig", "weight_u", "weight_v"), "weight", _divided),
    _Scheme(
        (
            "parametrizations.weight.original",
            "parametrizations.weight.0._u",
            "parametrizations.weight.0._v",
        ),
        "weight",
        _divided,
    ),
)
