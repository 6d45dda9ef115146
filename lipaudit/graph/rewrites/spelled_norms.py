"""Normalizations spelled out: signals divided by what is computed from them, and softmax."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from lipaudit.graph.node import TORCH_DOMAIN, Attribute, Node
from lipaudit.graph.rewrites.formula import Formula, Monomial, Reduction

_INVERSE_ROOT = Fraction(-1, 2)


def _standardizations(formula: Formula, product: Monomial) -> Iterator[Node]:
    """d/√(mean d² + ε) over the last axes: a layer norm where d = x - mean x, else an RMS norm."""
    found = product.quotient(_INVERSE_ROOT)
    shifted = formula.shifted(found[1]) if found is not None else None
    mean = formula.reduction(shifted[0], "ReduceMean") if shifted is not None else None
    if found is None or shifted is None or mean is None or not mean.is_trailing:
        return
    signal, epsilon = found[0], shifted[1]
    if epsilon <= 0:
        return
    stated: dict[str, Attribute] = {"axis": mean.axes[0], "epsilon": float(epsilon)}
    centred = _centred(formula, signal)
    if centred is not None and centred.axes == mean.axes:
        for one in _squared(formula, mean.source, signal):
            if _centred(formula, one) == centred:
                yield Node("LayerNormalization", "", (centred.source,), (), stated)
    if signal in _squared(formula, mean.source, signal):
        yield Node("RMSNormalization", "", (signal,), (), stated)


def _squared(formula: Formula, edge: str, signal: str) -> tuple[str, ...]:
    """Return what an edge is the square of."""
    product = formula.monomial(edge, signal)
    if product is None:
        return ()
    return tuple(one for one in product.powers if product.is_plain(one, 2))


def _centred(formula: Formula, edge: str) -> Reduction | None:
    """Return the mean that is subtracted from what it is the mean of."""
    difference = formula.maker(edge, "Sub")
    mean = formula.reduction(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is None or mean is None or mean.source != difference.inputs[0]:
        return None
    return mean


def _unit_lengths(formula: Formula, product: Monomial) -> Iterator[Node]:
    """x/max(‖x‖, ε) along some axes, the divisor expanded to the shape of x or not."""
    found = product.quotient(-1)
    if found is None:
        return
    x, divisor = found
    for length, least in _floored(formula, _unexpanded(formula, divisor, x)):
        norm = formula.reduction(length, "ReduceL2")
        if norm is not None and norm.source == x and least > 0:
            stated: dict[str, Attribute] = {"axes": norm.axes, "epsilon": float(least)}
            yield Node("Normalize", "", (x,), (), stated, TORCH_DOMAIN)


def _unexpanded(formula: Formula, edge: str, x: str) -> str:
    """Return what was expanded to the shape of x, or the edge itself."""
    expand = formula.maker(edge, "Expand")
    if expand is None or len(expand.inputs) != 2:
        return edge
    asked = formula.maker(expand.inputs[1], "Shape")
    same = asked is not None and asked.inputs == (x,) and not asked.attributes
    shape = formula.shapes.get(x)
    same = same or (shape is not None and formula.shapes.get(edge) == shape)
    return expand.inputs[0] if same else edge


def _floored(formula: Formula, edge: str) -> Iterator[tuple[str, Fraction]]:
    """Yield x and c where an edge is max(x, c)."""
    clip = formula.maker(edge, "Clip")
    if clip is not None and len(clip.inputs) > 1 and not any(clip.inputs[2:]):
        least = formula.number(clip.inputs[1], clip.inputs[0])
        if least is not None:
            yield clip.inputs[0], least
    for one, other in formula.operands(edge, "Max"):
        least = formula.number(other, one)
        if least is not None:
            yield one, least


def _softmaxes(formula: Formula, product: Monomial) -> Iterator[Node]:
    """Softmax, exp z/Σ exp z along one axis: of x too, if z is x less its own maximum."""
    found = product.quotient(-1)
    total = formula.reduction(found[1], "ReduceSum") if found is not None else None
    if found is None or total is None or total.source != found[0] or len(total.axes) != 1:
        return
    exponential = formula.maker(found[0], "Exp")
    if exponential is None:
        return
    z, axis = exponential.inputs[0], total.axes[0]
    shifted = formula.maker(z, "Sub")
    if shifted is not None:
        x, top = shifted.inputs
        if formula.reduction(top, "ReduceMax") == Reduction(x, total.axes):
            yield Node("Softmax", "", (x,), (), {"axis": axis})
    yield Node("Softmax", "", (z,), (), {"axis": axis})


PATTERNS: Sequence[Callable[[Formula, Monomial], Iterator[Node]]] = (
    _standardizations,
    _unit_lengths,
    _softmaxes,
)
"""Each yields what a product may mean, as a node without a name and outputs."""


def log_sums(formula: Formula, made: str) -> Iterator[Node]:
    """Log-sum-exp, log Σ exp x."""
    logarithm = formula.maker(made, "Log")
    total = formula.maker(logarithm.inputs[0], "ReduceSum") if logarithm is not None else None
    exponential = formula.maker(total.inputs[0], "Exp") if total is not None else None
    if total is None or exponential is None:
        return
    axes = total.inputs[1:]
    if all(name in formula.graph.constants for name in axes if name):
        inputs = (exponential.inputs[0], *axes)
        yield Node("ReduceLogSumExp", "", inputs, (), total.attributes)
