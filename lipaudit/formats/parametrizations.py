"""Parametrizations: weights that a module computes from stored tensors before it uses them.

weight_norm keeps g and v, W = g v / ‖v‖; spectral_norm keeps W0 and the vectors of its power
iteration, W = W0 / (uᵀ W0 v), the same u and v at every evaluation in inference mode.
"""

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from lipaudit.errors import NotCertified
from lipaudit.graph.constant import WRITABLE, Constant, Put, put_of, rescale_of
from lipaudit.graph.dtypes import torch_type

_UNIT = 2.0**-53
_LEAST_NORMAL = 2.0**-1022
"""Below it a rounding is no longer small beside the number."""
_POWER_STEPS = 30
TRAINING_NOTE = (
    "spectral_norm keeps the new norm in evaluation mode; in training torch normalizes its "
    "vectors again, and with them the weight"
)
"""What a user should know when a weight under spectral_norm was written."""
DIVISOR_NOTE = (
    "lipaudit.torch.spectral_norm keeps the new norm in evaluation mode; in training it divides by "
    "what its power iteration finds, and with it the weight changes"
)
"""The same of a weight under our own spectral_norm."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    """Names of the stored tensors, relative to the module, and how the weight comes of them."""

    parts: tuple[str, ...]
    target: str
    make: Callable[[str, tuple[Constant, ...]], Constant | None]
    beside: str = ""
    """Start of the names of tensors that belong to it without being needed; "" for none."""


def effective(tensors: Mapping[str, Constant]) -> dict[str, Constant]:
    """Return the tensors with each parametrized weight in the place of its first part."""
    replaced: dict[str, Constant] = {}
    gone: set[str] = set()
    names = sorted(tensors)
    for scheme in _SCHEMES:
        for prefix in _prefixes(tensors, scheme):
            parts = tuple(tensors[prefix + part] for part in scheme.parts)
            made = scheme.make(prefix + scheme.target, parts)
            if made is not None:
                replaced[prefix + scheme.parts[0]] = made
                gone.update(prefix + part for part in scheme.parts[1:])
                if scheme.beside:
                    gone.update(_beginning(names, prefix + scheme.beside))
    return {
        (replaced[key].name if key in replaced else key): replaced.get(key, constant)
        for key, constant in tensors.items()
        if key not in gone
    }


def _beginning(names: Sequence[str], start: str) -> Iterator[str]:
    """Yield the names that begin so, of names in order."""
    for at in range(bisect.bisect_left(names, start), len(names)):
        if not names[at].startswith(start):
            return
        yield names[at]


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
        turned = values / _powers(values, g)
        return g.values() * turned / _moderate_lengths(turned, g)

    def is_sound() -> bool:
        directions, lengths = v.values(), g.values()
        turned = directions / _powers(directions, g)
        return _are_normal(turned, directions != 0) and all(
            _are_normal(made, (directions != 0) & (lengths != 0))
            for made in (lengths * turned, exact())
        )

    # A sum of squares of n terms is wrong by γ_n, its root by half; 4 more roundings follow.
    error = 2 * (terms + 8) * _UNIT
    made = _computed(name, (v, g), exact, _unless_lost((v, g), is_sound, error))
    return replace(
        made,
        sources=(g.name, v.name),
        scaled_by=g.name,
        put=_into_directions(g, v, exact),
        rescale=rescale_of(g),
    )


def _lengths(values: torch.Tensor, g: Constant) -> torch.Tensor:
    """Return ‖v‖ of every slice that has an entry of g."""
    powers = _powers(values, g)
    return _moderate_lengths(values / powers, g) * powers


def _moderate_lengths(values: torch.Tensor, g: Constant) -> torch.Tensor:
    """Return ‖v‖ of every slice that has an entry of g, the squares within float64's range."""
    axes = [axis for axis, size in enumerate(g.shape) if size == 1]
    if axes or not g.shape:
        return values.square().sum(axes, keepdim=bool(g.shape)).sqrt()
    return values.abs()


def _powers(values: torch.Tensor, g: Constant) -> torch.Tensor:
    """Return the power of two by which to divide each slice: its largest entry is then in [1, 2).

    Squares that underflow after it are less than 2^-1022 of the sum.
    """
    axes = [axis for axis, size in enumerate(g.shape) if size == 1]
    if not values.numel():
        return torch.ones(g.shape, dtype=torch.float64)
    largest = values.abs()
    if axes or not g.shape:
        largest = largest.amax(axes, keepdim=bool(g.shape))
    # A number over twice its mantissa is a power of two, with no rounding.
    powers = largest / (2 * torch.frexp(largest).mantissa)
    return torch.where((largest > 0) & largest.isfinite(), powers, 1.0)


def _into_directions(g: Constant, v: Constant, exact: Callable[[], torch.Tensor]) -> Put | None:
    """Write W as v, in about the length that v has, and the length it should have as g.

    v is W times a power of two, so that its cast loses no more than W's would, and g comes from
    the cast v. A slice that should be 0 gets g = 0, and one that should stay keeps both.
    """
    put_g, put_v, dtype = put_of(g), put_of(v), torch_type(v.dtype)
    if put_g is None or put_v is None or dtype is None or v.dtype not in WRITABLE:
        return None

    def put(wanted: torch.Tensor) -> Mapping[str, torch.Tensor]:
        directions, lengths = v.values(), g.values()
        size, goal = _lengths(directions, g), _lengths(wanted, g)
        stays = _lengths((wanted != exact()).to(torch.float64), g) == 0
        apart = (size > 0) & (goal > 0)
        power = torch.where(apart, size / goal, 1.0).log2().round().exp2()
        turned = (wanted * power).to(dtype).to(torch.float64)
        directions = torch.where(stays | (goal == 0), directions, turned)
        lengths = torch.where(
            stays, lengths, torch.where(goal == 0, 0.0, _lengths(turned, g) / power)
        )
        return {**put_v(directions.to(dtype)), **put_g(lengths)}

    return put


def spectral_norm(name: str, parts: tuple[Constant, Constant, Constant], axis: int) -> Constant:
    """W = W0 / (uᵀ W0 v), the weight laid out as a matrix whose rows are counted by one axis."""
    original, u, v = parts

    def matrix() -> torch.Tensor:
        return original.values().movedim(axis, 0).reshape(u.items, -1)

    def exact() -> torch.Tensor:
        sigma = u.values().flatten() @ matrix() @ v.values().flatten()
        return original.values() / sigma

    def is_sound() -> bool:
        return _are_normal(exact(), original.values() != 0)

    error = _sigma_error(matrix(), u.values().flatten(), v.values().flatten())
    error = _unless_lost(parts, is_sound, error)
    scale = rescale_of(v)
    return replace(
        _computed(name, parts, exact, error),
        put=_into_vectors(name, parts, axis),
        # W0 drops out: twice as large, it is divided by twice as much.
        rescale=None if scale is None else lambda factor: scale(1 / factor),
        put_note=TRAINING_NOTE,
    )


def _into_vectors(name: str, parts: tuple[Constant, Constant, Constant], axis: int) -> Put | None:
    """Write W as W0, and u and v along its first singular vectors so that uᵀ W0 v = 1."""
    types = [torch_type(part.dtype) for part in parts if part.dtype in WRITABLE]
    puts = [put for put in map(put_of, parts) if put is not None]
    if len(types) < len(parts) or len(puts) < len(parts):
        return None
    rows = parts[1].items

    def put(wanted: torch.Tensor) -> Mapping[str, torch.Tensor]:
        stored = wanted.to(types[0])
        matrix = stored.to(torch.float64).movedim(axis, 0).reshape(rows, -1)
        if not bool(matrix.any()):
            raise NotCertified(
                f"{name!r} cannot be written as 0: spectral_norm divides by its norm",
                slug="clip-unwritable",
            )
        left, right = _leading(matrix, parts[1].values().flatten())
        # Half of the scale in each, lest one of them overflows a narrow type.
        half = (left @ matrix @ right).log2().div(2).round().exp2()
        u = (left / half).to(types[1])
        v = (right / (u.to(torch.float64) @ matrix @ right)).to(types[2])
        made: dict[str, torch.Tensor] = {}
        for place, part, values in zip(puts, parts, (stored, u, v), strict=True):
            made |= place(values.reshape(part.shape))
        return made

    return put


def _leading(matrix: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit vectors near the first singular ones: any will do by which uᵀ W v > 0.

    In training torch goes on from them, one step of the power iteration at a time.
    """
    matrix = matrix / matrix.abs().max()
    left = start / start.norm()
    if not bool((left @ matrix).norm() > 2.0**-20):
        left = matrix[matrix.square().sum(1).argmax()] @ matrix.T
    for _ in range(_POWER_STEPS):
        right = functional.normalize(left @ matrix, dim=0)
        left = functional.normalize(matrix @ right, dim=0)
    return left, right


def quotient(name: str, original: Constant, divisor: Constant) -> Constant:
    """W = W0 / d with one stored number d, as lipaudit.torch.spectral_norm keeps it."""

    def exact() -> torch.Tensor:
        return original.values() / divisor.values().reshape(())

    def is_sound() -> bool:
        return _are_normal(exact(), original.values() != 0)

    # One division, rounded once; a second unit in reserve.
    error = _unless_lost((original, divisor), is_sound, 2 * _UNIT)
    made = _computed(name, (original, divisor), exact, error)
    put = put_of(original)
    return replace(
        made,
        scaled_by=original.name,
        put=None if put is None else lambda wanted: put(wanted * divisor.values().reshape(())),
        rescale=rescale_of(original),
        put_note=DIVISOR_NOTE,
    )


def _unless_lost(parts: tuple[Constant, ...], is_sound: Callable[[], bool], error: float) -> float:
    """Return the error of a computation in float64, infinite where it leaves float64's range.

    From parts in narrower types no product of a few of them can leave it.
    """
    wide = [part for part in parts if part.dtype == "float64" or part.unrounded is not None]
    return error if not wide or is_sound() else math.inf


def _are_normal(values: torch.Tensor, where: torch.Tensor) -> bool:
    """Tell whether these entries neither overflowed nor lost digits to underflow."""
    fine = (values.abs() >= _LEAST_NORMAL) & values.isfinite()
    return bool((fine | ~where).all())


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


def _over(name: str, parts: tuple[Constant, ...]) -> Constant | None:
    original, divisor = parts
    return quotient(name, original, divisor) if divisor.items == 1 else None


def _sigma_error(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """Bound the relative error of uᵀ W v: its terms may cancel, so compare with their moduli."""
    sigma = abs(float(left @ matrix @ right))
    moduli = float(left.abs() @ matrix.abs() @ right.abs())
    terms = left.numel() + right.numel() + 8
    # Products that underflow are off by 2^-1075 each, those of uᵀ W times an entry of v.
    lost = 2.0**-1022 * _UNIT * (float(right.abs().sum()) + 1)
    if not (sigma > 0 and all(math.isfinite(number) for number in (sigma, moduli, lost))):
        return math.inf
    return 4 * terms * (_UNIT * moduli + 4 * lost) / sigma


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
    _Scheme(
        ("parametrizations.weight.original", "parametrizations.weight.0._divisor"),
        "weight",
        _over,
        beside="parametrizations.weight.0.",
    ),
)
