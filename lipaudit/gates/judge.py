"""Judging: every rule held against every model, and the exit code that follows."""

from lipaudit.errors import ExitCode, worst
from lipaudit.gates.policy import Policy
from lipaudit.gates.rules import ERROR, RULES
from lipaudit.results import Finding, Report, Verdict


def judge(report: Report, policy: Policy) -> Verdict:
    """Return all findings; a gate is passed only if there are none."""
    findings = tuple(
        finding
        for model in report.models
        for rule in RULES
        for finding in rule.check(model, policy)
    )
    codes = [_code(finding) for finding in findings]
    if policy.is_gate and not report.models:
        codes.append(ExitCode.NOT_CERTIFIED)
    code = worst(codes)
    return Verdict(findings, (code is ExitCode.OK) if policy.is_gate else None, int(code))


def _code(finding: Finding) -> ExitCode:
    return ExitCode.GATE_FAILED if finding.severity == ERROR else ExitCode.NOT_CERTIFIED
