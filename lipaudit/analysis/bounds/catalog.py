"""The catalog: every method imported once, in the order of the report."""

from collections.abc import Sequence

from lipaudit.analysis.bounds import averaged, base, multipliers, propagated
from lipaudit.analysis.bounds.base import AbstractBound

METHODS = (propagated, averaged, multipliers)


def registered() -> Sequence[AbstractBound]:
    """Return every method, the simplest first."""
    order = [module.__name__ for module in METHODS]
    return sorted(base.registered(), key=lambda method: order.index(type(method).__module__))
