"""Upkeep: exceptions that have outlived their date, or that nothing needs any more."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lipaudit.gates.policy import Ignore, Policy
from lipaudit.gates.rule import ERROR, NOTE, Rule
from lipaudit.globs import matches
from lipaudit.results import Finding, ModelReport

ID = "LIP009"


def _expired(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    for ignore in policy.ignores:
        if ignore.expired:
            message = (
                f"the exception from {ignore.rule} expired on {ignore.expires}: {ignore.reason}"
            )
            yield Finding(ID, ERROR, model.path, "", message)


def excepted(findings: Sequence[Finding], policy: Policy, used: set[Ignore]) -> Iterator[Finding]:
    """Turn every finding that is ignored into a note that says so; keep the others.

    What ignored something is added to `used`.
    """
    for finding in findings:
        ignore = next((one for one in policy.ignores if _covers(one, finding)), None)
        if ignore is None:
            yield finding
            continue
        used.add(ignore)
        message = f"ignored until {ignore.expires} ({ignore.reason}): {finding.message}"
        yield replace(finding, severity=NOTE, message=message)


def idle(model: ModelReport, policy: Policy, used: set[Ignore]) -> Iterator[Finding]:
    """Note the exceptions that no model needed, each once: they join those that were used."""
    for ignore in policy.ignores:
        if not ignore.expired and ignore not in used:
            used.add(ignore)
            message = f"nothing needs the exception from {ignore.rule} ({ignore.reason})"
            yield Finding(ID, NOTE, model.path, "", message)


def _covers(ignore: Ignore, finding: Finding) -> bool:
    if ignore.expired or ignore.rule != finding.rule or finding.severity == NOTE:
        return False
    return ignore.layers is None or (bool(finding.where) and matches(finding.where, ignore.layers))


EXPIRED_IGNORE = Rule(
    ID,
    "expired exception",
    "An [[ignore]] entry of the config is past its date. It no longer ignores anything, so that "
    "what it covered counts again, and is an error itself (exit 1) although nothing else may be "
    "wrong: the date was a promise to look again. An entry that still counts but covers nothing "
    "is noted.\n\n"
    "What helps: fix what was ignored, or give the entry a new date and a reason that still "
    "holds; if nothing needs it any more, take it out. This rule cannot be ignored.",
    _expired,
)
