"""Judging: every rule held against every model, and the exit code that follows."""

from collections.abc import Mapping

from lipaudit.errors import ExitCode, worst
from lipaudit.gates.catalog import INFOS, RULES
from lipaudit.gates.policy import Ignore, Policy
from lipaudit.gates.rule import ERROR, NOTE
from lipaudit.gates.upkeep import excepted, idle
from lipaudit.results import Finding, ModelReport, Report, Verdict


def judge(report: Report, policy: Policy | Mapping[str, Policy]) -> Verdict:
    """Return all findings; a gate is passed only if none of them is more than a note.

    The policy is one for all models, or each model's own by its path.
    """
    pairs = [
        (model, policy if isinstance(policy, Policy) else policy[model.path])
        for model in report.models
    ]
    used: set[Ignore] = set()
    findings = tuple(finding for model, own in pairs for finding in _findings(model, own, used))
    findings += tuple(finding for model, own in pairs for finding in idle(model, own, used))
    codes = [code_of(finding) for finding in findings]
    is_gate = any(
        own.is_gate for own in ((policy,) if isinstance(policy, Policy) else policy.values())
    )
    if is_gate and not report.models:
        codes.append(ExitCode.NOT_CERTIFIED)
    code = worst(codes)
    return Verdict(findings, (code is ExitCode.OK) if is_gate else None, int(code), INFOS)


def code_of(finding: Finding) -> ExitCode:
    """Return the exit code that a finding calls for."""
    if finding.severity == NOTE:
        return ExitCode.OK
    return ExitCode.GATE_FAILED if finding.severity == ERROR else ExitCode.NOT_CERTIFIED


def _findings(model: ModelReport, policy: Policy, used: set[Ignore]) -> tuple[Finding, ...]:
    found = [finding for rule in RULES for finding in rule.check(model, policy)]
    return tuple(excepted(found, policy, used))
