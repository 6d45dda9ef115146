"""Differing: two audits held side by side, model by model and layer by layer."""

from collections.abc import Iterator, Sequence

from lipaudit.comparison import Comparison, LayerChange, ModelChange, Snapshot
from lipaudit.errors import ExitCode, worst
from lipaudit.gates.judge import code_of
from lipaudit.gates.pairing import paired
from lipaudit.gates.regression import ID, increases
from lipaudit.gates.rule import ERROR, UNDECIDED
from lipaudit.gates.safety import ID as LIP005
from lipaudit.results import Finding


def compare(
    before: tuple[str, Sequence[Snapshot]],
    after: tuple[str, Sequence[Snapshot]],
    allowed: float | None = None,
) -> Comparison:
    """Compare two audits, each with the name the user gave it.

    With `allowed` it is a gate: nothing may have grown by more, nothing may be unknown, and no
    model may be missing.
    """
    pairs = tuple(_pairs(before[1], after[1]))
    findings = tuple(
        Finding(LIP005, ERROR, model.path, "", f"the file's pickle {alarm}")
        for model in after[1]
        for alarm in model.alarms
    )
    passed = None
    if allowed is not None:
        findings += tuple(f for one, other in pairs for f in _objections(one, other, allowed))
        # Nothing compared is no success.
        compared = any(one is not None and other is not None for one, other in pairs)
        passed = compared and all(code_of(finding) is ExitCode.OK for finding in findings)
    return Comparison(
        before=before[0],
        after=after[0],
        models=tuple(_change(one, other) for one, other in pairs),
        findings=findings,
        passed=passed,
    )


def exit_code(found: Comparison) -> ExitCode:
    """Return the exit code that a comparison calls for."""
    code = worst([code_of(finding) for finding in found.findings])
    return ExitCode.NOT_CERTIFIED if found.passed is False and code is ExitCode.OK else code


def _pairs(
    before: Sequence[Snapshot], after: Sequence[Snapshot]
) -> Iterator[tuple[Snapshot | None, Snapshot | None]]:
    """Pair the models by path; two single models are meant for each other."""
    if len(before) == len(after) == 1:
        yield before[0], after[0]
        return
    left: dict[str, list[Snapshot]] = {}
    for snapshot in before:
        left.setdefault(snapshot.path, []).append(snapshot)
    for snapshot in after:
        same = left.get(snapshot.path)
        yield same.pop(0) if same else None, snapshot
    yield from ((snapshot, None) for same in left.values() for snapshot in same)


def _change(before: Snapshot | None, after: Snapshot | None) -> ModelChange:
    if before is None or after is None:
        return ModelChange(before, after)
    layers = tuple(LayerChange(one, other) for one, other in paired(before.layers, after.layers))
    return ModelChange(before, after, layers, tuple(_notes(before, after)))


def _notes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    if before.sha256 and before.sha256 == after.sha256:
        yield "both are of the same file, byte for byte"
    if before.input_shapes != after.input_shapes:
        yield "measured on other input shapes: norms of convolutions differ for that alone"
    if before.version != after.version:
        yield f"made by lipaudit {before.version or '?'} and {after.version or '?'}"
    if before.folded != after.folded:
        yield "in one of them batch norms are folded into the layers before them"
    bounded = before.bound is not None and after.bound is not None
    if bounded and before.assumptions != after.assumptions:
        yield "the bounds hold under different assumptions"
    elif bounded and after.assumptions:
        yield f"both bounds assume: {'; '.join(after.assumptions)}"
    for snapshot, when in ((before, "before"), (after, "after")):
        if snapshot.skipped:
            yield f"without a number {when}: {len(snapshot.skipped)} ({snapshot.skipped[0]!r} ...)"


def _objections(
    before: Snapshot | None, after: Snapshot | None, allowed: float
) -> Iterator[Finding]:
    if after is None:
        if before is not None:
            yield Finding(ID, UNDECIDED, before.path, "", "the model is there no longer")
        return
    if before is None:
        yield Finding(ID, UNDECIDED, after.path, "", "there is no such model before")
        return
    yield from increases(before, after, allowed)
    if before.bound is None or after.bound is None:
        message = "its matrices have no norm of their own, and no two bounds can be compared"
        yield from (
            Finding(ID, UNDECIDED, after.path, name, message) for name in after.without_norm
        )
    if before.bound is None and after.bound is not None:
        message = "no bound was asked for before, to which this one could be held"
        yield Finding(ID, UNDECIDED, after.path, "", message)
    if not after.layers and (before.bound is None or after.bound is None):
        yield Finding(ID, UNDECIDED, after.path, "", "nothing was measured that can be compared")
    for name in after.skipped:
        yield Finding(ID, UNDECIDED, after.path, name, "it has no number")
