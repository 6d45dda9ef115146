"""Rule: one thing that may be wrong with a model, and how to find out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lipaudit.gates.policy import Policy
from lipaudit.results import Finding, ModelReport, RuleInfo

ERROR = "error"
"""The run fails: exit 1."""
UNDECIDED = "undecided"
"""A claim can be neither proven nor refuted: exit 3."""
NOTE = "note"
"""Worth knowing; changes nothing."""

Check = Callable[[ModelReport, Policy], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's record: one more in the catalog is all that a new rule takes."""

    id: str
    summary: str
    """One phrase, for tables and logs."""
    explanation: str
    """What it means, why it matters, what to do about it: for `lipaudit explain`."""
    check: Check

    @property
    def info(self) -> RuleInfo:
        """What reports need of it."""
        return RuleInfo(self.id, self.summary, self.explanation)
