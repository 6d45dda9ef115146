"""Severities: what a finding is called in other programs' words."""

from collections.abc import Mapping
from types import MappingProxyType

from lipaudit.results import Finding, RuleInfo, Verdict

_LEVELS: Mapping[str, str] = MappingProxyType(
    {"error": "error", "undecided": "warning", "note": "note"}
)


def level(finding: Finding) -> str:
    """Return error, warning (for what is undecided) or note."""
    return _LEVELS.get(finding.severity, "warning")


def rules(verdict: Verdict) -> dict[str, RuleInfo]:
    """Return the rules by id, those included of which only a finding is known."""
    known = {rule.id: rule for rule in verdict.rules}
    for finding in verdict.findings:
        known.setdefault(finding.rule, RuleInfo(finding.rule, finding.rule, finding.rule))
    return known


def verdict_in_words(verdict: Verdict) -> str:
    """Say how the gate ended."""
    if verdict.passed is None:
        return "no gate was asked for"
    return "the gate passed" if verdict.passed else "the gate did NOT pass"
