"""Affine layers, run in floating point: their numbers for `arithmetic.Affine`."""

import math
from dataclasses import replace

import torch

from lipaudit.analysis.rounding.arithmetic import Affine, Signal, Unprovable
from lipaudit.analysis.rounding.place import Place, largest_entry, norm_of_moduli
from lipaudit.device import CPU, Compute
from lipaudit.enclosure import ONE, Enclosure, largest
from lipaudit.graph.constant import computed
from lipaudit.layers.convolution import Conv, ConvTranspose
from lipaudit.layers.linear import Gemm, Linear, MatMul
from lipaudit.layers.normalization import BatchNormalization
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.certify import ROOM, gamma
from lipaudit.operators.convolution import SizedConvolution
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator
from lipaudit.operators.geometry import PaddingMode
from lipaudit.operators.scaled import ScaledOperator
from lipaudit.operators.scaling import rescaled

BATCH_NORMS = "each batch normalization runs as a layer of its own"

_NO_SPECTRA = Compute(CPU, full_spectra=False)
_BATCH_NORM_ROUNDINGS = 12
"""Of one term of a·x - a·m + β, a = γ/√(v + ε), however it is put together: ε, v + ε, a root, a
quotient (or a reciprocal root that is off by 2 units), a product each with γ and with x or m, two
sums, and room for two more."""


def dense(place: Place, layer: Linear | Gemm | MatMul, signal: Signal) -> Signal:
    """Carry a signal through a stored matrix."""
    weight = place.held(layer.weight)

    def operator(values: torch.Tensor) -> AbstractLinearOperator:
        stand_in = replace(layer, weight=computed(layer.weight.name, values))
        return stand_in.operator(place.shapes[0], _NO_SPECTRA)

    moduli = operator(weight.values.abs())
    affine = Affine(
        terms=(moduli.in_shape or (0,))[-1],
        outputs=place.items,
        norm=place.factor,
        moduli=_matrix_norm(moduli),
        moved=_matrix_norm(operator(weight.moved)),
    )
    if isinstance(layer, Gemm):
        affine = _scaled(place, affine, layer.form.alpha, layer.form.beta)
    else:
        affine = _biased(place, affine)
    return affine.carry(signal, place.arithmetic)


def _matrix_norm(operator: AbstractLinearOperator) -> Enclosure:
    match operator:
        case DenseOperator():
            return norm_of_moduli(operator.matrix)
        case BlockDiagonalOperator():
            return norm_of_moduli(operator.blocks)
        case ScaledOperator():
            return rescaled(_matrix_norm(operator.inner), operator.factor)
        case _:
            raise Unprovable("its matrix is of an unknown kind")


def _scaled(place: Place, affine: Affine, alpha: float, beta: float) -> Affine:
    """Add β times the bias to a product that is multiplied by α."""
    affine = _biased(place, affine, beta)
    beta = beta if 2 in place.constants else 1.0
    if alpha == beta == 1:
        return affine
    kept = place.arithmetic.kept
    sizes = [abs(alpha), abs(beta)]
    if not all(kept.normal <= size <= kept.largest for size in sizes):
        raise Unprovable(f"α = {alpha:g} or β = {beta:g} is no normal number of {kept.name}")
    # α or β may be rounded, and each is multiplied with; a half may be stored in between.
    powers = [ONE, *map(Enclosure.exactly, sizes), ONE.over(Enclosure.exactly(sizes[0]))]
    return replace(affine, further=2, stores=4, scale=largest(powers))


def _biased(place: Place, affine: Affine, factor: float = 1.0) -> Affine:
    """Add a stored bias, input 2, times a factor."""
    constant = place.constants.get(2)
    if constant is None:
        return affine
    bias, size = place.held(constant), Enclosure.exactly(abs(factor))
    moved = place.spread(bias.moved).times(size)
    # ‖b‖ <= ‖b̂‖ + ‖b̂ - b‖.
    return replace(
        affine, offset=place.spread(bias.values).times(size).plus(moved), offset_moved=moved
    )


def convolved(place: Place, layer: Conv | ConvTranspose, signal: Signal) -> Signal:
    """Carry a signal through a convolution with a stored kernel."""
    kernel = place.held(layer.kernel)
    taps = math.prod(kernel.values.shape[2:])
    if isinstance(layer, Conv):
        if layer.form is None:
            raise Unprovable("only its kernel is known")
        groups, stores, terms = layer.form.groups, 2, kernel.values[0].numel()
        copies = _copies(place, layer)
    else:
        # Sums over channels may be stored, then those over overlapping taps (torch, on the CPU).
        groups, stores, copies = layer.groups, 2 + taps, 1
        terms = kernel.values.shape[0] // groups * taps
    padding = Enclosure.sqrt_of(copies)
    affine = Affine(
        terms=terms,
        outputs=place.items,
        norm=place.factor,
        moduli=_size_free_norm(kernel.values.abs(), groups).times(padding),
        moved=_size_free_norm(kernel.moved, groups).times(padding),
        stores=stores,
    )
    return _biased(place, affine).carry(signal, place.arithmetic)


def _size_free_norm(kernel: torch.Tensor, groups: int) -> Enclosure:
    """Bound the norm of a convolution with a kernel of moduli, on inputs of any size.

    The moduli of a symbol Σ_p K_p exp(-i p·θ) are at most those at θ = 0, entry by entry, so
    the norm is at most ‖Σ_p K_p‖ (of the largest group). Strides, zero padding and cuts delete
    rows and columns; dilation moves θ; the transposed one is the adjoint.
    """
    taps = math.prod(kernel.shape[2:])
    sums = kernel.flatten(2).sum(2) * ((1.0 + gamma(taps)) * ROOM)
    return norm_of_moduli(sums.reshape(groups, -1, kernel.shape[1]))


def _copies(place: Place, layer: Conv) -> int:
    """Return ‖pad‖², the most copies that the padding makes of one item."""
    if layer.form is None or layer.form.mode is PaddingMode.ZEROS:
        return 1
    operator = layer.operator(place.shapes[0], _NO_SPECTRA)
    inner = operator.inner if isinstance(operator, ScaledOperator) else operator
    if not isinstance(inner, SizedConvolution):
        raise Unprovable("how often its padding copies an item is not known")
    return inner.conv.copies


def normalized(place: Place, layer: BatchNormalization, signal: Signal) -> Signal:
    """Carry a signal through a batch normalization by stored statistics.

    All parameters are rounded to the format first; the line that belongs to the rounded ones
    is compared with the exact one, and the rest is an affine layer of one term a row.
    """
    place.assumed.add(BATCH_NORMS)
    kept, sums = place.arithmetic.kept, place.arithmetic.summed
    if 0 < layer.epsilon < sums.normal:
        raise Unprovable(f"ε = {layer.epsilon:g} is no normal number of {sums.name}")
    stored = (layer.scale, place.constants[2], place.constants[3], layer.variance)
    if any(constant.entry_error for constant in stored):
        raise Unprovable("its statistics are computed, not stored")
    held = [place.held(constant) for constant in stored]
    factor, shift, size = _line([constant.values() for constant in stored], layer.epsilon)
    run_factor, run_shift, run_size = _line([one.values for one in held], layer.epsilon)
    if not bool(torch.isfinite(run_factor).all()):
        raise Unprovable("its factors overflow")
    # A thousandth of a rounding covers those of both lines in float64, and a tie that another
    # road to the format would break the other way.
    slack = 0.0 if all(one.is_exact for one in held) else kept.unit * 2.0**-10
    steep, wide = torch.maximum(factor.abs(), run_factor.abs()), torch.maximum(size, run_size)
    scale, _, mean, variance = (one.values for one in held)
    inverse = (variance + layer.epsilon).rsqrt() * ROOM
    affine = Affine(
        terms=_BATCH_NORM_ROUNDINGS,
        outputs=place.items,
        norm=place.factor,
        moduli=largest_entry(run_factor * ROOM),
        moved=largest_entry(((run_factor - factor).abs() + slack * steep) * ROOM),
        offset=place.spread(wide * ROOM),
        offset_moved=place.spread(((run_shift - shift).abs() + slack * wide) * ROOM),
        scale=largest([ONE, *map(largest_entry, (scale, inverse, run_factor * ROOM))]),
    )
    leaving = affine.carry(signal, place.arithmetic)
    # Before it is scaled: x - m. A factor that underflows is off by less than η.
    distance = signal.reach.plus(place.spread(mean)).times(affine.scale)
    place.arithmetic.check(distance.times(Enclosure.exactly(2)), sums)
    lost = Enclosure.exactly(sums.least + kept.least).times(distance)
    return Signal(leaving.value, leaving.error.plus(lost))


def _line(
    parameters: list[torch.Tensor], epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a = γ/√(v + ε), β - m·a, and |β| + |m·a|."""
    scale, offset, mean, variance = parameters
    factor = scale / (variance + epsilon).sqrt()
    moved = mean * factor
    return factor, offset - moved, offset.abs() + moved.abs()


def summed_up(place: Place, signal: Signal, terms: int, axes: int) -> Signal:
    """Carry a signal through sums or means of windows: ‖|W|‖ = ‖W‖, since no weight is negative.

    They may be summed at once or axis by axis, and divided before or after, by k or times 1/k:
    on each axis at most 4 roundings more than those of the sum, and 3 stores.
    """
    whole = signal.reach.times(Enclosure.sqrt_of(max(terms, 1)))
    # A sum may be stored before it is divided; the factor 2 covers its rounding.
    place.arithmetic.check(whole.times(Enclosure.exactly(2)), place.arithmetic.kept)
    return Affine(
        terms=terms,
        outputs=place.items,
        norm=place.factor,
        moduli=place.factor,
        further=4 * axes,
        stores=3 * axes + 1,
    ).carry(signal, place.arithmetic)
