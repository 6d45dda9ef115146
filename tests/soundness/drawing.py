"""Drawing: one layer of torch.nn that fits a signal, its parameters drawn too."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from tests.soundness import blocks
from tests.soundness.weights import Chance, offsets, scales, variances, weights

Shape = tuple[int, ...]
"""Of a signal without its batch axis: (features,), (channels, *sizes) or (length, features)."""

_Class = Callable[..., nn.Module]
_CONV: Sequence[_Class] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Sequence[_Class] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_MAX: Sequence[_Class] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN: Sequence[_Class] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE: Sequence[_Class] = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ZERO: Sequence[_Class] = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
_REFLECT: Sequence[_Class] = (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)
_REPLICATE: Sequence[_Class] = (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d)
_CIRCULAR: Sequence[_Class] = (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)
_EPSILONS = (2.0**-17, 2.0**-10, 0.125, 1.0)


def _set(parameter: object, value: torch.Tensor) -> None:
    assert isinstance(parameter, torch.Tensor)
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def filled(chance: Chance, layer: nn.Module) -> nn.Module:
    """Draw the parameters of a linear or recurrent layer anew."""
    for name, parameter in layer.named_parameters():
        if parameter.dim() > 1:
            _set(parameter, weights(chance, *parameter.shape))
        elif "weight" in name:
            _set(parameter, scales(chance, parameter.numel()))
        else:
            _set(parameter, offsets(chance, parameter.numel()))
    return layer


def linear(chance: Chance, inputs: int, outputs: int) -> nn.Linear:
    """Draw a dense layer."""
    layer = nn.Linear(inputs, outputs, bias=chance.flag(0.7))
    filled(chance, layer)
    return layer


def batch_norm(chance: Chance, rank: int, channels: int) -> nn.Module:
    """Draw a batch norm over signals of that many axes, with odd statistics."""
    layer = _BATCH[max(rank, 1) - 1](channels, eps=chance.of(_EPSILONS), affine=chance.flag(0.8))
    if layer.affine:
        _set(layer.weight, scales(chance, channels))
        _set(layer.bias, offsets(chance, channels))
    _set(layer.running_mean, chance.normal(channels))
    _set(layer.running_var, variances(chance, channels))
    return layer


ACTIVATIONS: Sequence[Callable[[Chance], nn.Module]] = (
    lambda _: nn.ReLU(), lambda _: nn.ReLU(), lambda _: nn.ReLU(), lambda _: nn.Tanh(),
    lambda _: nn.Sigmoid(), lambda _: nn.GELU(), lambda _: nn.GELU(approximate="tanh"),
    lambda _: nn.SiLU(), lambda _: nn.Mish(), lambda _: nn.SELU(), lambda _: nn.Softplus(),
    lambda _: nn.ReLU6(), lambda _: nn.Hardswish(), lambda _: nn.Hardsigmoid(),
    lambda _: nn.Softsign(), lambda _: nn.LogSigmoid(), lambda _: nn.Tanhshrink(),
    lambda c: nn.LeakyReLU(c.of((0.01, 0.25, -0.5, 1.5, 3.0))),
    lambda c: nn.ELU(c.of((1.0, 0.5, 2.0))), lambda c: nn.CELU(c.of((1.0, 0.5, 2.0))),
    lambda c: nn.Softplus(beta=c.of((1.0, 2.0, 0.5))),
    lambda c: nn.Hardtanh(-c.between(0, 2), c.between(0.1, 2)),
    lambda _: nn.Threshold(0.5, 0.5), lambda c: nn.Softshrink(c.of((0.5, 0.125))),
    lambda c: nn.PReLU(init=c.of((0.25, -1.5, 2.0))), lambda c: nn.Dropout(c.of((0.25, 0.5))),
    lambda _: nn.Hardshrink(), lambda _: nn.Identity(), lambda _: nn.Softmax(1),
)  # fmt: skip


def activation(chance: Chance, _: Shape) -> nn.Module:
    """Draw what acts item by item."""
    return chance.of(ACTIVATIONS)(chance)


def function(chance: Chance, _: Shape) -> nn.Module:
    """Draw one of the plain functions."""
    return blocks.Function(chance.of(tuple(blocks.FUNCTIONS)))


def scaled(chance: Chance, shape: Shape) -> nn.Module:
    """Draw an affine map item by item, or channel by channel."""
    sizes = shape if chance.flag() else (shape[0], *(1,) * (len(shape) - 1))
    count = math.prod(sizes)
    parts = scales(chance, count), offsets(chance, count)
    return blocks.Scaled(*(part.reshape(sizes) for part in parts))


def dense(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a dense layer over the last axis."""
    return linear(chance, shape[-1], 1 + chance.pick(8))


def flatten(_: Chance, __: Shape) -> nn.Module:
    """Lay everything out in one row."""
    return nn.Flatten()


def unflatten(chance: Chance, shape: Shape) -> nn.Module:
    """Make an image of a row."""
    size = shape[0]
    factors = [f for f in range(1, size + 1) if size % f == 0]
    first = chance.of(factors)
    rest = size // first
    second = chance.of([f for f in range(1, rest + 1) if rest % f == 0])
    sizes = (first, rest) if chance.flag(0.3) else (first, second, rest // second)
    return nn.Unflatten(1, sizes)


def convolution(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a convolution with its stride, dilation, groups and padding mode."""
    rank, channels = len(shape) - 1, shape[0]
    groups = chance.of([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0])
    made = groups * (1 + chance.pick(max(1, 5 // groups)))
    sizes = [1 + chance.pick(3) for _ in range(rank)]
    steps = [chance.of((1, 1, 2, 3)) for _ in range(rank)]
    gaps = [chance.of((1, 1, 1, 2)) for _ in range(rank)]
    mode = chance.of(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
    pads: str | list[int] = [chance.pick(3) for _ in range(rank)]
    if chance.flag(0.15) and set(steps) == {1}:
        pads = chance.of(("same", "valid"))
    layer = _CONV[rank - 1](channels, made, sizes, steps, pads, gaps, groups, chance.flag(), mode)
    return filled(chance, layer)


def transposed(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a transposed convolution."""
    rank, channels = len(shape) - 1, shape[0]
    groups = chance.of([g for g in (1, 1, 2, channels) if channels % g == 0])
    made = groups * (1 + chance.pick(2))
    sizes = [1 + chance.pick(4) for _ in range(rank)]
    steps = [1 + chance.pick(3) for _ in range(rank)]
    gaps = [chance.of((1, 1, 2)) for _ in range(rank)]
    pads = [chance.pick(min(2, 1 + g * (k - 1))) for g, k in zip(gaps, sizes, strict=True)]
    extra = [chance.pick(max(step, gap)) for step, gap in zip(steps, gaps, strict=True)]
    layer = _TRANSPOSED[rank - 1](
        channels, made, sizes, steps, pads, extra, groups, chance.flag(), gaps
    )
    return filled(chance, layer)


def pool(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a pool with overlaps, padding and odd ends."""
    rank = len(shape) - 1
    kind = chance.pick(4)
    if kind == 0:
        sizes = [1 + chance.pick(size) for size in shape[1:]]
        return _ADAPTIVE[rank - 1 + 3 * chance.pick(2)](sizes)
    window = [1 + chance.pick(3) for _ in range(rank)]
    steps = [1 + chance.pick(3) for _ in range(rank)]
    pads = [chance.pick(size // 2 + 1) for size in window]
    ceil = chance.flag(0.3)
    if kind == 1:
        gaps = [chance.of((1, 1, 2)) for _ in range(rank)]
        return _MAX[rank - 1](window, steps, pads, gaps, ceil_mode=ceil)
    if kind == 2 and rank < 3:
        power = chance.of((2.0, 3.0))
        made: nn.Module = (nn.LPPool1d, nn.LPPool2d)[rank - 1](power, window[0], steps[0])
        return made
    counted = chance.flag()
    return _MEAN[rank - 1](window, steps, pads, ceil_mode=ceil, count_include_pad=counted)


def normalization(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a normalization, of stored or of its own statistics."""
    rank, channels = len(shape) - 1, shape[0]
    epsilon = chance.of(_EPSILONS)
    kind = chance.pick(6)
    if kind == 0 and rank:
        groups = chance.of([g for g in range(1, channels + 1) if channels % g == 0])
        return filled(chance, nn.GroupNorm(groups, channels, epsilon))
    if kind == 1 and rank:
        layer = _INSTANCE[rank - 1](channels, epsilon, affine=chance.flag())
        return filled(chance, layer)
    if kind == 2 and rank:
        return nn.LocalResponseNorm(1 + chance.pick(3), alpha=0.5, beta=0.75, k=1.0)
    if kind == 3:
        over = shape[-1:] if chance.flag(0.7) else shape
        return filled(chance, nn.LayerNorm(over, epsilon))
    if kind == 4:
        return filled(chance, nn.RMSNorm(shape[-1:], epsilon))
    return batch_norm(chance, rank, channels)


def padded(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a padding of its own."""
    rank = len(shape) - 1
    kinds = (
        _ZERO[rank - 1], _REFLECT[rank - 1], _REPLICATE[rank - 1], _CIRCULAR[rank - 1],
    )  # fmt: skip
    return chance.of(kinds)([chance.pick(3) for _ in range(2 * rank)])


def resized(chance: Chance, shape: Shape) -> nn.Module:
    """Draw an upsampling or a shuffle of pixels."""
    rank = len(shape) - 1
    if rank == 2 and chance.flag(0.3):
        return chance.of((nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)))
    smooth = ("linear", "bilinear", "trilinear")[rank - 1]
    mode = chance.of(("nearest", smooth, "bicubic"))
    corners = chance.flag() if mode != "nearest" else None
    factors = tuple(chance.of((1.0, 1.5, 2.0)) for _ in range(rank))
    return nn.Upsample(scale_factor=factors, mode=mode, align_corners=corners)


def excitation(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a gate on the channels."""
    return blocks.Excitation(linear(chance, shape[0], shape[0]))


def attention(chance: Chance, shape: Shape) -> nn.Module:
    """Draw self-attention."""
    size = shape[1]
    heads = chance.of([h for h in (1, 2, 3) if size % h == 0])
    mix = linear(chance, size, 3 * size)
    return blocks.Attention(mix, heads, fused=chance.flag(), causal=chance.flag(0.3))


def recurrent(chance: Chance, shape: Shape) -> nn.Module:
    """Draw a recurrent layer, forward or both ways, of one or two floors."""
    size, hidden = shape[1], 1 + chance.pick(3)
    floors, both = 1 + chance.pick(2), chance.flag(0.3)
    cell: nn.RNNBase
    kind = chance.pick(4)
    if kind < 2:
        cell = (nn.LSTM, nn.GRU)[kind](
            size, hidden, floors, batch_first=True, bidirectional=both, bias=chance.flag(0.8)
        )
    else:
        curve = ("tanh", "relu")[kind - 2]
        cell = nn.RNN(size, hidden, floors, nonlinearity=curve, batch_first=True)
    filled(chance, cell)
    return blocks.Recurrent(cell, last=chance.flag())


def tokens(chance: Chance, shape: Shape) -> nn.Module:
    """Draw embeddings of stored tokens."""
    table = nn.Embedding(5, shape[1])
    filled(chance, table)
    where = torch.tensor([chance.pick(5) for _ in range(shape[0])])
    return blocks.Tokens(table, where)


Maker = Callable[[Chance, Shape], nn.Module]
_ROWS = (dense, dense, dense, activation, activation, activation, function, function, scaled,
         normalization, unflatten)  # fmt: skip
_SEQUENCES = (dense, dense, activation, activation, function, function, normalization, flatten,
              attention, recurrent, tokens, scaled, convolution)  # fmt: skip
_IMAGES = (convolution, convolution, convolution, convolution, transposed, pool, pool,
           normalization, normalization, activation, activation, activation, function, padded,
           resized, excitation, flatten, scaled, dense)  # fmt: skip
MAKERS: Mapping[int, Sequence[Maker]] = {
    1: _ROWS,
    2: _SEQUENCES + _IMAGES,
    3: _IMAGES,
    4: _IMAGES,
}
"""What fits a signal of that many axes."""
