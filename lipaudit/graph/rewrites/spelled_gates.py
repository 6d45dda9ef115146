"""Activations spelled out: x times a gate, a function of x between 0 and 1 or so."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Attribute, Node
from lipaudit.graph.rewrites.formula import Formula, Monomial

_HALF = Fraction(1, 2)
_GELU_ALPHA = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715
_LEAST = Fraction(1, 10**300)
_CLOSE = 2.0**-9
"""Relative: what rounding to the coarsest type, bfloat16, does to a constant. The layer takes the
numbers of the file and answers for the difference."""


def _gated(product: Monomial) -> Iterator[tuple[str, str, Fraction]]:
    """Yield x, g and c where a product is c·x·g; each of the two may be the gate."""
    if len(product.powers) == 2 and set(product.powers.values()) == {1}:
        one, other = product.powers
        yield one, other, product.factor
        yield other, one, product.factor


def _multiple(formula: Formula, edge: str, x: str) -> Monomial | None:
    """Return an edge as a number times x."""
    product = formula.monomial(edge, x)
    return product if product is not None and product.is_power(x) else None


def _alpha(formula: Formula, edge: str, x: str) -> float | None:
    """Return α where an edge is αx, rounded: the slopes of x·g(αx) are the same for every α."""
    product = _multiple(formula, edge, x)
    return _rounded(product.factor) if product is not None else None


def _rounded(number: Fraction) -> float | None:
    """Return the closest float; None where that is 0 or infinite."""
    fits = _LEAST <= abs(number) <= 1 / _LEAST
    return float(number) if fits else None


def _stored(number: Fraction) -> float | None:
    """Return the float that is exactly this number, if there is one."""
    value = _rounded(number)
    return value if value is not None and Fraction(value) == number else None


def _swishes(formula: Formula, product: Monomial) -> Iterator[Node]:
    """x·sigmoid(αx)."""
    for x, gate, factor in _gated(product):
        sigmoid = formula.maker(gate, "Sigmoid")
        alpha = _alpha(formula, sigmoid.inputs[0], x) if sigmoid is not None else None
        if alpha is not None and factor == 1:
            yield _node("Swish", x, {"alpha": alpha})


def _mishes(formula: Formula, product: Monomial) -> Iterator[Node]:
    """x·tanh(log(1 + exp x))."""
    for x, gate, factor in _gated(product):
        tanh = formula.maker(gate, "Tanh")
        softplus = formula.maker(tanh.inputs[0], "Softplus") if tanh is not None else None
        if softplus is not None and softplus.inputs[0] == x and factor == 1:
            yield _node("Mish", x)


def _hard_swishes(formula: Formula, product: Monomial) -> Iterator[Node]:
    """scale·x·clip(αx + 1/2, 0, 1), with the clip of 0 to any number, or as HardSigmoid."""
    for x, gate, factor in _gated(product):
        found = _hard_gate(formula, gate, x)
        scale = _stored(factor * found[1]) if found is not None else None
        if found is not None and scale is not None:
            yield _node("HardSwish", x, {"alpha": found[0], "scale": scale}, TORCH_DOMAIN)


def _hard_gate(formula: Formula, gate: str, x: str) -> tuple[float, Fraction] | None:
    """Return α, rounded, and h where an edge is h·clip(αx + 1/2, 0, 1)."""
    sigmoid = formula.maker(gate, "HardSigmoid")
    if sigmoid is not None:
        steep, beta = sigmoid.attributes.get("alpha", 0.2), sigmoid.attributes.get("beta", 0.5)
        inner = _multiple(formula, sigmoid.inputs[0], x)
        if inner is None or not isinstance(steep, float) or not math.isfinite(steep):
            return None
        alpha = _rounded(inner.factor * Fraction(steep))
        return (alpha, Fraction(1)) if alpha is not None and beta == _HALF else None
    clip = formula.maker(gate, "Clip")
    if clip is None or len(clip.inputs) != 3:
        return None
    ramp, low, high = clip.inputs
    least, height = formula.number(low, ramp), formula.number(high, ramp)
    shifted = formula.shifted(ramp)
    if least != 0 or not height or height < 0 or shifted is None or 2 * shifted[1] != height:
        return None
    inner = _multiple(formula, shifted[0], x)
    alpha = _rounded(inner.factor / height) if inner is not None else None
    return (alpha, height) if alpha is not None else None


def _gelus(formula: Formula, product: Monomial) -> Iterator[Node]:
    """x·(1 + erf(αx))/2 or x·(1 + tanh(α·(x + βx³)))/2, the half anywhere."""
    for x, gate, factor in _gated(product):
        shifted = formula.shifted(gate)
        inner = formula.monomial(shifted[0]) if shifted is not None else None
        if shifted is None or inner is None or not inner.is_exact:
            continue
        if factor * shifted[1] != _HALF or factor * inner.factor != _HALF:
            continue
        for edge in inner.powers:
            erf, tanh = formula.maker(edge, "Erf"), formula.maker(edge, "Tanh")
            if not inner.is_power(edge):
                continue
            alpha = _alpha(formula, erf.inputs[0], x) if erf is not None else None
            if alpha is not None:
                yield _node("Gelu", x, {"alpha": alpha}, TORCH_DOMAIN)
            if tanh is not None:
                yield from _tanh_gelus(formula, tanh.inputs[0], x)


def _tanh_gelus(formula: Formula, angle: str, x: str) -> Iterator[Node]:
    """Yield a Gelu where the angle is α·(x + βx³), about that of arXiv:1606.08415."""
    for linear, cubed in _cubics(formula, angle, x):
        alpha, cubic = _stored(linear), _stored(cubed / linear)
        if alpha is None or cubic is None:
            continue
        if _is_close(alpha, _GELU_ALPHA) and _is_close(cubic, _GELU_CUBIC):
            stated: dict[str, Attribute] = {"alpha": alpha, "cubic": cubic, "approximate": "tanh"}
            yield _node("Gelu", x, stated, TORCH_DOMAIN)


def _cubics(formula: Formula, edge: str, x: str) -> Iterator[tuple[Fraction, Fraction]]:
    """Yield a and b where an edge is ax + bx³, written as c·(px + qx³) or as cx·(p + qx²)."""
    whole = formula.monomial(edge, x)
    if whole is None or not whole.is_exact:
        return
    sums = [name for name in whole.powers if name != x]
    if len(sums) != 1 or set(whole.powers.values()) != {1}:
        return
    is_taken_out = x in whole.powers
    for first, second in formula.operands(sums[0], "Add"):
        upper = formula.monomial(second, x)
        lower = formula.number(first, x) if is_taken_out else _exact(formula, first, x)
        if not lower or upper is None or not upper.is_exact:
            continue
        if upper.is_power(x, 2 if is_taken_out else 3):
            yield whole.factor * lower, whole.factor * upper.factor


def _exact(formula: Formula, edge: str, x: str) -> Fraction | None:
    product = _multiple(formula, edge, x)
    return product.factor if product is not None and product.is_exact else None


def _is_close(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= _CLOSE * abs(wanted)


def _softsigns(formula: Formula, product: Monomial) -> Iterator[Node]:
    """x/(1 + |x|)."""
    found = product.quotient(-1)
    shifted = formula.shifted(found[1]) if found is not None else None
    if found is None or shifted is None or shifted[1] != 1:
        return
    magnitude = formula.maker(shifted[0], "Abs")
    if magnitude is not None and magnitude.inputs[0] == found[0]:
        yield _node("Softsign", found[0])


def _node(
    op: str, x: str, attributes: Mapping[str, Attribute] | None = None, domain: str = ONNX_DOMAIN
) -> Node:
    return Node(op, "", (x,), (), dict(attributes or {}), domain)


PATTERNS: Sequence[Callable[[Formula, Monomial], Iterator[Node]]] = (
    _swishes,
    _gelus,
    _mishes,
    _hard_swishes,
    _softsigns,
)
"""Each yields what a product may mean, as a node without a name and outputs."""
