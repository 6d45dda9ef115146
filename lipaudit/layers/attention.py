"""Attention: fused dot-product attention and rotary position embedding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand, optional
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values, enclosing


def _attention_examples() -> Examples:
    yield example("Attention", (1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6))
    yield example("Attention", (1, 4, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), scale=0.7, softcap=2.0)
    yield example(
        "Attention",
        (2, 3, 8),
        (2, 3, 8),
        (2, 3, 8),
        q_num_heads=2,
        kv_num_heads=2,
        is_causal=1,
    )
    mask = torch.tensor([[True, False, True], [True, True, True]])
    yield example("Attention", (1, 1, 2, 4), (1, 1, 3, 4), (1, 1, 3, 4), constants={3: mask})
    bias = torch.tensor([[0.0, -1.0, 1.0], [2.0, 0.5, 0.0]])
    for stage in range(4):
        yield example(
            "Attention",
            (1, 1, 2, 4),
            (1, 1, 3, 4),
            (1, 1, 3, 4),
            constants={3: bias},
            outputs=4,
            softcap=2.0,
            qk_matmul_output_mode=stage,
        )
    past = {4: torch.ones(1, 1, 1, 4), 5: torch.ones(1, 1, 1, 4)}
    yield example(
        "Attention",
        (1, 1, 2, 4),
        (1, 1, 2, 4),
        (1, 1, 2, 4),
        constants={3: bias, **past},
        outputs=4,
        qk_matmul_output_mode=3,
    )


@layer("Attention", summary="none globally; through value bounds", examples=_attention_examples)
@final
@dataclass(frozen=True, slots=True)
class Attention(AbstractGainLayer):
    """softmax(scale Q Kᵀ + mask) V, with grouped heads, a soft cap and cached keys and values."""

    query_heads: int
    """0 where the signals have an axis of heads already."""
    key_heads: int
    scale: float | None
    """None: 1/√(size of a head)."""
    softcap: float
    causal: bool
    shown: int
    """Which stage the fourth output shows: 0 scores, 1 masked, 2 capped, 3 probabilities."""
    only_three: bool
    """Whether queries, keys and values are its only signals, and the result its only output."""

    @classmethod
    def from_node(cls, call: Call) -> "Attention":
        """Read the attributes."""
        if call.given(6):
            raise UnsupportedNode("padded keys and values")
        return cls(
            call.attribute("q_num_heads", 0),
            call.attribute("kv_num_heads", 0),
            call.attribute("scale", 0.0) if call.has("scale") else None,
            call.attribute("softcap", 0.0),
            call.attribute("is_causal", 0) != 0,
            call.attribute("qk_matmul_output_mode", 0),
            call.signals == (0, 1, 2) and not any(call.node.outputs[1:]) and not call.given(4),
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Attend, following the function body in ONNX's definition."""
        query = _with_heads(operand(inputs), self.query_heads)
        key = _with_past(_with_heads(operand(inputs, 1), self.key_heads), optional(inputs, 4))
        value = _with_past(_with_heads(operand(inputs, 2), self.key_heads), optional(inputs, 5))
        past = optional(inputs, 4)
        groups = query.shape[1] // key.shape[1]
        keys, values = (kv.repeat_interleave(groups, dim=1) for kv in (key, value))
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        scores = query @ keys.mT * scale
        offset = 0 if past is None else past.shape[-2]
        capped = self.softcap * torch.tanh(scores / self.softcap) if self.softcap else scores
        masked = capped + self._mask(scores, optional(inputs, 3), offset)
        # A row in which everything is masked attends to nothing.
        weights = torch.softmax(masked, -1).masked_fill((masked == -torch.inf).all(-1, True), 0)
        attended = weights @ values
        if operand(inputs).ndim == 3:
            attended = attended.transpose(1, 2).flatten(2)
        return attended, key, value, (scores, capped, masked, weights)[self.shown]

    def _mask(self, scores: torch.Tensor, stated: torch.Tensor | None, offset: int) -> torch.Tensor:
        """Return what is added to the scores: the stated mask, and the causal one."""
        bias = scores.new_zeros(())
        if stated is not None:
            bias = _as_bias(stated, scores)
        if self.causal:
            rows, columns = scores.shape[-2:]
            seen = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(offset)
            bias = bias + _as_bias(seen, scores)
        return bias

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing globally: scores grow with the product of queries and keys."""
        del shapes
        return Unbounded(
            "bilinear",
            "dot-product attention has no global Lipschitz constant; "
            "a value bound on its inputs gives one",
        )

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Bound dP V + P dV, with scores Z = s Q Kᵀ and P = softmax(Z), for each head.

        P has rows of length <= 1 that add up to 1, so that ‖P‖ <= √n for n queries and dP V is
        dP (V - 1cᵀ) for every c; softmax halves, so that ‖dP‖ <= ‖dZ‖/2; and ‖dZ‖ <= |s|(‖K‖‖dQ‖ +
        ‖Q‖‖dK‖). A soft cap stretches nothing, a mask adds a constant. Keys and values that g
        heads share enter g times.
        """
        if not self.only_three or any(shape is None for shape in shapes):
            return self.gain(shapes)
        query, key, value = (shape for shape in shapes if shape is not None)
        split = len(query) == 3
        heads = (self.query_heads, self.key_heads) if split else (query[1], key[1])
        size = query[-1] // heads[0] if split else query[-1]
        if not all(heads) or not size or not key[-2]:
            return self.gain(shapes)
        norms = [values[0].matrix_norm(query), values[1].matrix_norm(key)]
        spread = _centred(values[2], value)
        if not all(norm.is_finite for norm in (*norms, spread)):
            return self.gain(shapes)
        exact = Enclosure.exactly
        stated = None if self.scale is None else exact(abs(self.scale))
        scale = ONE.over(Enclosure.sqrt_of(size)) if stated is None else stated
        shared = Enclosure.sqrt_of(heads[0] // heads[1])
        halved = spread.times(scale).times(exact(0.5))
        factors = (
            halved.times(norms[1]),
            halved.times(norms[0]).times(shared),
            Enclosure.sqrt_of(query[-2]).times(shared),
        )
        return Gain(
            tuple(factor.without_lower() for factor in factors),
            method="bounds of queries, keys and values",
        )

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what averages of values can be; nothing of the other outputs."""
        value = inputs[2]
        if value is None or not self.only_three:
            return ()
        low, high = value.lo.amin(-2, keepdim=True), value.hi.amax(-2, keepdim=True)
        # A row in which everything is masked is 0.
        return (Values.between(min(float(low.min()), 0.0), max(float(high.max()), 0.0)),)


def _centred(values: Values, shape: Shape) -> Enclosure:
    """Bound the norm of V - 1cᵀ for the c half way, or of V itself where that is less."""
    plain, wide = values.matrix_norm(shape), values.of_shape(shape)
    if not values.is_finite:
        return plain
    middle = (wide.lo.amin(-2, keepdim=True) + wide.hi.amax(-2, keepdim=True)) / 2
    moved = enclosing(wide.lo - middle, wide.hi - middle).matrix_norm(shape)
    return moved if moved.hi < plain.hi else plain


def _with_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split the last axis into heads where the signal has none: (batch, heads, length, size)."""
    if x.ndim == 4:
        return x
    if not heads:
        raise ValueError("the number of heads is not stated")
    return _split_heads(x, heads).transpose(1, 2)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _with_past(x: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
    return x if past is None else torch.cat([past, x], dim=2)


def _as_bias(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if mask.dtype is not torch.bool:
        bias = mask
    else:
        bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    missing = scores.shape[-1] - bias.shape[-1]
    if missing > 0 and bias.shape[-1] > 1:
        bias = torch.nn.functional.pad(bias, (0, missing), value=-torch.inf)
    return bias


def _rotary_examples() -> Examples:
    angle = torch.linspace(0.0, 3.0, 10).reshape(5, 2)
    cache = {1: angle.cos(), 2: angle.sin()}
    at = torch.tensor([[0, 2, 4]])
    yield example("RotaryEmbedding", (1, 2, 3, 4), constants={**cache, 3: at}, exact_gain=1.0)
    yield example(
        "RotaryEmbedding", (1, 2, 3, 4), constants={**cache, 3: at}, interleaved=1, exact_gain=1.0
    )
    yield example(
        "RotaryEmbedding",
        (1, 3, 12),
        constants={**cache, 3: at},
        num_heads=2,
        rotary_embedding_dim=4,
        exact_gain=1.0,
    )


@layer("RotaryEmbedding", summary="max √(cos² + sin²)", examples=_rotary_examples)
@final
@dataclass(frozen=True, slots=True)
class RotaryEmbedding(AbstractGainLayer):
    """Pairs of features turned by an angle that depends on the position."""

    caches: tuple[Constant | None, Constant | None]
    interleaved: bool
    heads: int
    size: int
    """How many features of a head are turned; 0: all."""

    @classmethod
    def from_node(cls, call: Call) -> "RotaryEmbedding":
        """Take the tables of cosines and sines."""
        return cls(
            (call.constant(1), call.constant(2)),
            call.attribute("interleaved", 0) != 0,
            call.attribute("num_heads", 0),
            call.attribute("rotary_embedding_dim", 0),
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Turn the pairs."""
        given = operand(inputs)
        # (batch, length, heads, size), whatever the layout.
        x = given.transpose(1, 2) if given.ndim == 4 else _split_heads(given, self.heads)
        size = self.size or x.shape[-1]
        turned, rest = x[..., :size], x[..., size:]
        cos, sin = self._angles(inputs, size)
        if cos.dim() == x.dim() and cos.shape[0] != x.shape[0]:
            raise ValueError(f"positions of {cos.shape[0]} for {x.shape[0]} sequences")
        if self.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            pairs = torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1).flatten(-2)
        else:
            a, b = turned.chunk(2, dim=-1)
            pairs = torch.cat([cos * a - sin * b, sin * a + cos * b], dim=-1)
        made = torch.cat([pairs, rest], dim=-1)
        return (made.transpose(1, 2) if given.ndim == 4 else made.flatten(-2),)

    @staticmethod
    def _angles(inputs: Inputs, size: int) -> tuple[torch.Tensor, ...]:
        positions = optional(inputs, 3)
        tables = (operand(inputs, 1), operand(inputs, 2))
        chosen = tables if positions is None else tuple(t[positions.long()] for t in tables)
        return tuple(table[..., : size // 2].unsqueeze(-2) for table in chosen)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the largest √(cos² + sin²): a block of the map is that times a rotation."""
        cos, sin = self.caches
        if cos is None or sin is None or len(shapes) > 1:
            return Unbounded("bilinear", "the network computes the angles or the positions")
        squares = cos.values().square() + sin.values().square()
        largest = float(squares.max()) if squares.numel() else 0.0
        if not math.isfinite(largest):
            return Unbounded("non-finite", "its tables hold values that are not finite")
        # Two squares, their sum, and twice the entries' own error: see Higham 2002, ch. 3.
        error = 4 * 2.0**-53 + 4 * max(cos.entry_error, sin.entry_error)
        if not error < 1:
            return Unbounded("computed-parameter", "its tables were computed inexactly")
        squared = Enclosure.exactly(largest)
        slack = squared.times(Enclosure.exactly(error))
        scaled = squared.widened(slack).sqrt().without_lower()
        # Features beyond `size` pass as they are.
        norm = scaled.larger(ONE) if self.size else scaled
        return unary(norm, "rotations, scaled by the stored tables")
