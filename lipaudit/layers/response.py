"""Local response normalization: each item divided by a power of the energy around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import final

from torch.nn import functional

from lipaudit.enclosure import ONE, Enclosure, Rigor
from lipaudit.graph.constant import Shape
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
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.pointwise import steep
from lipaudit.layers.registry import layer

# `decimal` computes powers to within one unit of the last of these digits; the factor below
# is far wider than that.
_DIGITS = Context(prec=60, traps=[])
_NEARLY_ONE = Enclosure.of(Decimal("0." + "9" * 38), Decimal("1." + "0" * 37 + "1"), Rigor.PROVED)


def _power(base: Decimal, exponent: Decimal) -> Enclosure:
    return Enclosure.exactly(_DIGITS.power(base, exponent)).times(_NEARLY_ONE)


def _examples() -> Examples:
    yield example("LRN", (1, 5, 2, 1), size=3, alpha=2.0, beta=0.75, bias=1.0)
    yield example("LRN", (4, 4, 2, 1), size=2, alpha=0.5, beta=0.5, bias=2.0)
    yield example("LRN", (1, 3, 2, 2), size=5)
    # β = 0 divides by 1.
    yield example("LRN", (1, 3, 2, 1), size=3, alpha=1.0, beta=0.0, exact_gain=1.0)


@layer("LRN", summary="k^-β·(1 + 2√m·(β/(β+1))^(β+1)), m = window", examples=_examples)
@final
@dataclass(frozen=True, slots=True)
class LocalResponseNormalization(AbstractGainLayer):
    """x_i·s_i^-β with s_i = k + a·Σ x_j² over the m channels around i, a = α/m."""

    size: int
    alpha: float
    beta: float
    bias: float

    @classmethod
    def from_node(cls, call: Call) -> "LocalResponseNormalization":
        """Take the window and the constants."""
        size = call.attribute("size", 0)
        if size < 1:
            raise UnsupportedNode("it does not say how many channels it looks at")
        return cls(
            size,
            call.attribute("alpha", 1e-4),
            call.attribute("beta", 0.75),
            call.attribute("bias", 1.0),
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide by the power of the energy around each channel."""
        x = operand(inputs)
        before = (self.size - 1) // 2
        around = functional.pad(x.square().movedim(1, -1), (before, self.size - 1 - before)).unfold(
            -1, self.size, 1
        )
        energy = self.bias + self.alpha / self.size * around.sum(-1).movedim(-1, 1)
        return (x / energy**self.beta,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return k^-β·(1 + 2√m·(β/(β+1))^(β+1)), for k > 0 and α, β >= 0.

        The Jacobian is diag(s_i^-β) - R with R_ij = 2aβ·x_i·x_j·s_i^(-β-1) for j around i.
        Since i is around itself, a|x_i|·√Σx_j² <= a·Σx_j² = s_i - k, so row i of R is at most
        2β(s - k)s^(-β-1), which is largest at s = k(β+1)/β, with 2k^-β·(β/(β+1))^(β+1). A
        channel is around at most m others, so ‖R‖ is at most √m times its longest row.
        """
        del shapes
        if not (self.bias > 0 and self.alpha >= 0 and self.beta >= 0):
            return steep("its divisor may come close to 0")
        beta, bias = Decimal(self.beta), Decimal(self.bias)
        largest = _power(bias, beta.copy_negate())
        if self.beta == 0 or self.alpha == 0:
            return unary(largest, "a division by a constant")
        share = Enclosure.exactly(beta).over(Enclosure.exactly(beta).plus(ONE))
        peak = _power(share.hi, _DIGITS.add(beta, Decimal(1)))
        rows = Enclosure.sqrt_of(self.size).times(Enclosure.exactly(2)).times(peak)
        return unary(largest.times(ONE.plus(rows)).without_lower(), "row norms of its Jacobian")
