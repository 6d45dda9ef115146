"""Resizing: interpolation to stated sizes, or by stated factors."""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Attribute
from lipaudit.layers.interpolation import Interpolation, Resizing, made_size

_MOST_ITEMS = 1 << 20
"""A file of a few bytes can state an axis of 10^18 items."""


@translates("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def upsample_nearest(call: AtenCall, build: GraphBuilder) -> None:
    """Write items repeated: result i is item ⌊i / scale⌋."""
    _repeated(call, build, "nearest", Interpolation("nearest", "asymmetric", "floor", 0.0, False))


@translates("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def upsample_nearest_exact(call: AtenCall, build: GraphBuilder) -> None:
    """Write items repeated: result i is item ⌊(i + 1/2) / scale⌋."""
    rule = Interpolation("nearest", "half_pixel", "round_prefer_ceil", 0.0, False)
    _repeated(call, build, "nearest-exact", rule)


@translates("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def upsample_linear(call: AtenCall, build: GraphBuilder) -> None:
    """Write items interpolated along each axis."""
    _interpolated(call, build, {"mode": "linear"})


@translates("upsample_bicubic2d")
def upsample_cubic(call: AtenCall, build: GraphBuilder) -> None:
    """Write items interpolated by cubics."""
    _interpolated(call, build, {"mode": "cubic", "cubic_coeff_a": -0.75})


def _repeated(call: AtenCall, build: GraphBuilder, mode: str, rule: Interpolation) -> None:
    """Write nearest neighbours, as Resize or, where the two break ties differently, by places."""
    axes = _axes(call)
    wide = call.dtype(call.tensor("self")) == "float64"
    dtype = torch.float64 if wide else torch.float32
    places = [_places(axis, mode, dtype, len(axes)) for axis in axes]
    scaled = (Resizing(one.size, one.made, one.factor or one.made / one.size) for one in axes)
    if all(
        torch.equal(rule.map(one).index[:, 0], stated)
        for one, stated in zip(scaled, places, strict=True)
    ):
        attributes: dict[str, Attribute] = {
            "mode": "nearest",
            "coordinate_transformation_mode": rule.coordinates,
            "nearest_mode": rule.nearest,
        }
        _resize(call, build, axes, attributes)
        return
    x = call.tensor("self")
    for at, stated in enumerate(places):
        index = build.constant(computed(build.fresh(f"{call.name}.places"), stated))
        x = step(call, build, "Gather", [x, index], {"axis": at + 2})
    emit(call, build, "Identity", [x])


def _places(axis: "_Axis", mode: str, dtype: torch.dtype, rank: int) -> torch.Tensor:
    """Return which item stands where, by torch itself: its arithmetic decides ties."""
    if max(axis.size, axis.made) > _MOST_ITEMS:
        raise Untranslatable(f"{axis.made} items")
    # The other axes are doubled: torch's kernels differ by their number, not by their sizes.
    items = torch.arange(axis.size, dtype=dtype).reshape(1, 1, -1, *(1,) * (rank - 1))
    if axis.factor is None:
        resized = functional.interpolate(items, size=(axis.made, *(2,) * (rank - 1)), mode=mode)
    else:
        factors = (axis.factor, *(2.0,) * (rank - 1))
        resized = functional.interpolate(items, scale_factor=factors, mode=mode)
    places = resized.flatten(2)[0, 0, :: 2 ** (rank - 1)].long()
    if len(places) != axis.made:
        raise Untranslatable("factors that do not make the sizes")
    return places


def _interpolated(call: AtenCall, build: GraphBuilder, attributes: dict[str, Attribute]) -> None:
    corners = call.flag("align_corners")
    where: Attribute = "align_corners" if corners else "half_pixel"
    axes = _axes(call)
    if corners:
        axes = [replace(axis, factor=None) for axis in axes]
    elif attributes["mode"] == "linear":
        # torch copies along an axis that keeps its size, whatever its factor.
        axes = [replace(one, factor=1.0) if one.size == one.made else one for one in axes]
    _resize(call, build, axes, attributes | {"coordinate_transformation_mode": where})


def _resize(
    call: AtenCall, build: GraphBuilder, axes: list["_Axis"], attributes: dict[str, Attribute]
) -> None:
    if all(axis.factor is None for axis in axes):
        batch = call.shape(call.tensor("self"))[:2]
        sizes = [size for size in (*batch, *(axis.made for axis in axes)) if size is not None]
        if len(sizes) != len(batch) + len(axes):
            raise Untranslatable("open sizes")
        target = build.integers(sizes, f"{call.name}.sizes")
        emit(call, build, "Resize", [call.tensor("self"), "", "", target], attributes)
        return
    # torch finds a result's place by the stated factor, not by the sizes that it leads to.
    scales = [1.0, 1.0, *(axis.factor or axis.made / axis.size for axis in axes)]
    if any(
        made_size(axis.size, scale) != axis.made
        for axis, scale in zip(axes, scales[2:], strict=True)
    ):
        raise Untranslatable("factors that do not make the sizes")
    made = computed(build.fresh(f"{call.name}.scales"), torch.tensor(scales, dtype=torch.float64))
    emit(call, build, "Resize", [call.tensor("self"), "", build.constant(made)], attributes)


@dataclass(frozen=True, slots=True)
class _Axis:
    size: int
    made: int
    factor: float | None
    """What the call states; None where it states the size alone."""


def _axes(call: AtenCall) -> list[_Axis]:
    """Return what happens to the axes behind batch and channels."""
    before = call.shape(call.tensor("self"))[2:]
    factors = _factors(call, len(before))
    stated = call.arguments.get("output_size")
    sizes = call.integers("output_size", len(before)) if stated is not None else None
    axes = []
    for at, (size, factor) in enumerate(zip(before, factors, strict=True)):
        if not size:
            raise Untranslatable("open or empty sizes")
        if sizes is not None:
            made = sizes[at]
        elif factor is not None:
            made = math.floor(size * factor)  # in double precision, as torch does
        else:
            raise Untranslatable("neither sizes nor factors")
        if made < 1:
            raise Untranslatable("open or empty sizes")
        axes.append(_Axis(size, made, factor))
    return axes


def _factors(call: AtenCall, rank: int) -> list[float | None]:
    stated = call.arguments.get("scale_factors")
    if stated is None:
        names = {
            1: ("scales",),
            2: ("scales_h", "scales_w"),
            3: ("scales_d", "scales_h", "scales_w"),
        }
        if rank not in names:
            raise Untranslatable(f"{rank} axes to resize")
        stated = [call.arguments.get(name) for name in names[rank]]
    factors: list[float | None] = []
    for one in stated if isinstance(stated, (list, tuple)) else ():
        if one is not None and (not isinstance(one, (int, float)) or not 0 < one < math.inf):
            raise Untranslatable("a factor that is not stored, or makes no sense")
        factors.append(None if one is None else float(one))
    return factors
