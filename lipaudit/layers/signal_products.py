"""Products of two matrices that both move: what bounds of their values say."""

from collections.abc import Sequence

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import Gain, Unbounded
from lipaudit.layers.broadcast import copying
from lipaudit.layers.values import Values, enclosing


def product_gain(
    shapes: tuple[Shape, Shape], values: Sequence[Values], factor: float
) -> Gain | Unbounded:
    """Bound the stretch of α A B slice by slice: ‖dA B‖_F <= ‖B‖ ‖dA‖_F, and likewise for dB."""
    stacks = [shape[:-2] for shape in shapes]
    factors = []
    for own, other in ((0, 1), (1, 0)):
        norm = values[other].matrix_norm(shapes[other])
        copies = copying(stacks, own)
        if copies is None or not norm.is_finite:
            return Unbounded("bilinear", "it multiplies two signals, one of them unbounded")
        scaled = norm.times(copies).times(Enclosure.exactly(abs(factor)))
        factors.append(scaled.without_lower())
    return Gain(tuple(factors), method="the norm that the other factor can have")


def matrix_product(left: Values, right: Values) -> Values:
    """Bound A B: with A = a ± r and B = b ± s it is a b ± (|a| s + r |b| + r s).

    By Cauchy no item is larger than the length of a row of A times that of a column of B.
    """
    a, b = (left.lo + left.hi) / 2, (right.lo + right.hi) / 2
    r, s = (left.hi - left.lo) / 2, (right.hi - right.lo) / 2
    middle, radius = a @ b, a.abs() @ s + r @ (b.abs() + s)
    made = enclosing(middle - radius, middle + radius, left.magnitude @ right.magnitude)
    longest = left.length(-1) * right.length(-2) * (1.0 + 2.0**-32)
    return Values(made.lo.clamp(min=-longest), made.hi.clamp(max=longest))
