"""The catalog: every method imported once, so that the registry is full."""

from lipaudit.analysis.bounds import propagated
from lipaudit.analysis.bounds.base import registered

METHODS = (propagated,)

__all__ = ["METHODS", "registered"]
