"""Marks: an upper end with a sign of how far it is to be trusted."""

from lipaudit.enclosure import Rigor
from lipaudit.report import numbers
from lipaudit.results import Measure

_MARKS = {Rigor.PROVED: "", Rigor.NUMERICAL: "~", Rigor.ESTIMATED: "?"}


def marked(measure: Measure) -> str:
    """Return the upper end, rounded up; ~ computed, ? estimated."""
    return numbers.upper(measure.upper, measure.log10_upper) + _MARKS[measure.rigor]
