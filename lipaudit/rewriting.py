"""Rewriting: a checkpoint in, a copy out whose limits are proved on the copy itself.

measure -> plan -> write beside -> read back -> measure -> (tighten, again) -> move into place
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import final

from lipaudit.analysis import audit
from lipaudit.analysis.audit import Crew
from lipaudit.analysis.bounding import Subject
from lipaudit.analysis.clipping import budget
from lipaudit.analysis.clipping import plan as plans
from lipaudit.analysis.clipping.limits import Limits
from lipaudit.analysis.clipping.plan import Plan
from lipaudit.analysis.clipping.weights import Method
from lipaudit.analysis.layerwise import Measured, Progress, Wish, title
from lipaudit.analysis.normless import recurrent
from lipaudit.analysis.shapes import InputShape
from lipaudit.device import Compute
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified, UsageError, WriteRefused
from lipaudit.formats import atomic, copies, detect, outputs
from lipaudit.formats.atomic import Stage
from lipaudit.formats.base import AbstractFormat
from lipaudit.formats.catalog import registered
from lipaudit.formats.source import check_unchanged
from lipaudit.graph.model import Model
from lipaudit.layers.network import Network
from lipaudit.results import BoundChange, ClipReport, Headline, LayerResult, Measure, Skipped

_ATTEMPTS = 12
_RELAXATIONS = 2
_NEAR = 0.98
"""A bound that is at least that share of its limit is as near as it need be."""


@final
@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted."""

    limits: Limits = field(default_factory=Limits)
    bound: float | None = None
    method: Method = Method.PROJECT
    folded: bool = False
    """Whether a batch norm and the map before it are one layer."""
    input_shape: InputShape = None

    def check(self) -> None:
        """Raise where there is nothing to do, or two things that exclude each other."""
        self.limits.check()
        stated = self.limits.to is not None or bool(self.limits.by_glob)
        if self.bound is None and not stated:
            raise UsageError(
                "no limit is stated", slug="clip-limit", hint="give --to, --limits or --bound"
            )
        if self.bound is not None:
            if stated:
                raise UsageError(
                    "--bound chooses the limits of the layers itself",
                    slug="clip-limit",
                    hint="leave --to and --limits out",
                )
            Limits(to=self.bound).check()
            if self.method is Method.SEDGHI:
                raise UsageError(
                    "the single pass meets no limit, so it cannot meet a bound",
                    slug="clip-method",
                    hint="take --method project or scale",
                )


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where the copy goes."""

    target: Path
    force: bool
    written: bool
    """False: it is measured and thrown away."""


@final
@dataclass(frozen=True, slots=True)
class _Job:
    """One checkpoint with everything that its rewriting needs."""

    model: Model
    order: Order
    reload: Callable[[Path], Model]
    compute: Compute
    progress: Progress | None
    crew: Callable[[Model], Crew | None]
    """Who measures the layers of a model; None: this process."""

    def measured(
        self,
        model: Model,
        places: frozenset[str] | None = None,
        enough: Mapping[str, float] | None = None,
    ) -> tuple[Network, tuple[Measured, ...]]:
        return audit.measure(
            model,
            self.compute,
            input_shape=self.order.input_shape,
            folded=self.order.folded,
            wish=Wish(places=places, enough=enough or {}),
            progress=self.progress,
            crew=self.crew(model),
        )


def rewrite(
    model: Model,
    order: Order,
    place: Place,
    *,
    reload: Callable[[Path], Model],
    compute: Compute,
    progress: Progress | None = None,
    crew: Callable[[Model], Crew | None] = lambda _: None,
) -> ClipReport:
    """Write the copy, or with nothing to change an equal one; say what was done."""
    order.check()
    form = detect.format_of(model)  # refuses what is not in a file
    if outputs.is_device(place.target):
        raise WriteRefused(
            "is a pipe or a device; a checkpoint needs a file of its own",
            slug="write-target",
            path=str(place.target),
        )
    job = _Job(model, order, reload, compute, progress, crew)
    with atomic.staged(
        place.target, originals=model.files, force=place.force, may_write=place.written
    ) as stage:
        try:
            clip = _clipped if order.bound is None else partial(_bounded, limit=order.bound)
            report = clip(job, stage)
        except NotCertified:
            check_unchanged(model.fingerprints)  # or else a layer without a norm is no wonder
            raise
        if place.written:
            stage.commit(originals=model.files, force=place.force)
    notes = (*report.notes, *_misnamed(form, place.target))
    return replace(report, output=str(place.target), written=place.written, notes=notes)


def _misnamed(form: AbstractFormat, target: Path) -> tuple[str, ...]:
    """Say where the output's name promises another format than the input's."""
    suffixes = {suffix for other in registered() for suffix in other.suffixes}
    if target.suffix not in suffixes or target.suffix in form.suffixes:
        return ()
    return (f"the copy is in the input's format ({form.name}), whatever its name says",)


def _clipped(job: _Job, stage: Stage) -> ClipReport:
    """Bring every layer to its limit."""
    network, before = job.measured(job.model)
    limits = job.order.limits
    limits.check_names([title(item.step) for item in before])
    plan = _planned(job, network, before, lambda item: limits.of(title(item.step)))
    if not plan.limits:
        raise UsageError(
            "there is no layer to clip",
            slug="clip-nothing",
            path=job.model.path,
            hint="`lipaudit inspect` lists what can be measured, and why the rest cannot",
        )
    plan, after = _settled(job, stage, plan, before)
    return _report(
        job,
        plan,
        before,
        after,
        limits.to if not limits.by_glob else None,
        others=recurrent(network),
    )


def _planned(
    job: _Job,
    network: Network,
    before: tuple[Measured, ...],
    limit_of: Callable[[Measured], float | None],
) -> Plan:
    return plans.plan(
        job.model,
        network,
        before,
        limit_of,
        job.order.method,
        compute=job.compute,
        normalizations=job.order.folded,
        progress=job.progress,
    )


def _settled(
    job: _Job, stage: Stage, plan: Plan, before: tuple[Measured, ...]
) -> tuple[Plan, tuple[Measured, ...]]:
    """Write what is planned, and tighten it until the written file is proved to meet it."""
    for attempt in range(_ATTEMPTS):
        patch = plans.patch(job.model, plan)
        stage.write(copies.changed(job.model, patch, stage.target.name))
        changed = plans.using(job.model, before, patch)
        _, after = job.measured(job.reload(stage.main), changed, plan.aims)
        if plans.is_met(plan, after) or job.order.method is Method.SEDGHI:
            return plan, after
        plan = plans.tightened(plan, after, attempt)
    raise NotCertified(
        "no weights within the file's dtype were proved to meet the limits",
        slug="clip-dtype",
        path=job.model.path,
    )


def _bounded(job: _Job, stage: Stage, limit: float) -> ClipReport:
    """Bring the whole network to its bound.

    Limits are chosen by the bound of the graph; other methods may prove less of the result. So
    the graph's bound is allowed as much more as that, as long as the file still meets the limit.
    """
    network, before = job.measured(job.model)
    subject, audited = audit.bounded(job.model, network, before, job.compute)
    start = _headline(job, audited.bound)
    if start.rigor is Rigor.PROVED and start.upper <= limit:
        plan, after = _settled(job, stage, Plan((), {}, {}, job.order.method), before)
        report = _report(job, plan, before, after, None, others=recurrent(network))
        change = BoundChange(limit, start, start)
        return replace(report, bound=change, assumptions=job.model.assumptions)
    aim, least_failed, found = limit, math.inf, None
    for attempt in range(_ATTEMPTS):
        tried = _tried(job, stage, subject, aim)
        reached = tried.measure
        if reached.rigor is Rigor.PROVED and reached.upper <= limit:
            found = tried if found is None or reached.upper > found.measure.upper else found
            if reached.upper >= _NEAR * limit or attempt >= _RELAXATIONS:
                break
            aim = min(aim * limit / reached.upper, math.sqrt(aim * min(least_failed, aim * 1e6)))
        else:
            least_failed = min(least_failed, aim)
            if found is not None:
                break
            aim *= 0.999 * limit / reached.upper
    if found is None:
        raise _unreached(job)
    if found is not tried:
        # What is staged is an attempt that went too far: write the last one that did not.
        _settled(job, stage, found.plan, before)
    change = BoundChange(limit, start, found.measure)
    report = _report(job, found.plan, before, found.after, None, others=recurrent(network))
    return replace(report, bound=change, assumptions=job.model.assumptions)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """One choice of limits, written and measured."""

    plan: Plan
    after: tuple[Measured, ...]
    measure: Measure
    """Of the whole network."""


def _tried(job: _Job, stage: Stage, subject: Subject, aim: float) -> _Tried:
    only = job.order.limits.only
    limits = budget.limits_for(subject, aim, only=only)
    if limits is None:
        raise _unreached(job)
    plan = _planned(
        job, subject.network, subject.measured, lambda item: limits.get(plans.place(item))
    )
    plan, _ = _settled(job, stage, plan, subject.measured)
    copy = job.reload(stage.main)
    network, after = job.measured(copy)
    _, report = audit.bounded(copy, network, after, job.compute)
    return _Tried(plan, after, _headline(job, report.bound))


def _unreached(job: _Job) -> NotCertified:
    return NotCertified(
        f"clipping the layers does not bring the bound of the network to {job.order.bound:g}",
        slug="clip-bound",
        path=job.model.path,
    )


def _headline(job: _Job, headline: Headline | None) -> Measure:
    """Return the bound of the whole network, which must be finite."""
    if headline is None or not headline.measure.is_finite:
        reasons = headline.reasons if headline is not None else ()
        raise NotCertified(
            "the network has no finite bound: " + "; ".join(reasons),
            slug="clip-bound",
            path=job.model.path,
            hint="clip its layers with --to",
        )
    return headline.measure


def _above(
    job: _Job, plan: Plan, before: tuple[Measured, ...], others: tuple[str, ...]
) -> tuple[str, ...]:
    """Name what stays above the general limit, or beside it, without being clipped."""
    limit = job.order.limits.to
    names = [
        item.result.name
        for item in before
        if limit is not None
        and plans.place(item) not in plan.limits
        and isinstance(item.result, LayerResult)
        and not item.result.norm.upper <= limit
    ]
    notes = []
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        notes.append(f"still above {limit:g}, since it is not clipped: {shown}")
    if job.model.unread or others:
        what = [*(u.name for u in job.model.unread), *others]
        shown = ", ".join(what[:3]) + (f" and {len(what) - 3} more" if len(what) > 3 else "")
        notes.append(f"no norm, so neither clipped nor limited: {shown}")
    return tuple(notes)


def _report(
    job: _Job,
    plan: Plan,
    before: tuple[Measured, ...],
    after: tuple[Measured, ...],
    limit: float | None,
    *,
    others: tuple[str, ...],
) -> ClipReport:
    return ClipReport(
        path=job.model.path,
        output="",
        limit=limit,
        method=str(job.order.method),
        changes=plans.changes(plan, before, after),
        skipped=tuple(Skipped(u.name, u.kind, u.slug, u.reason) for u in job.model.unread),
        notes=(*job.model.notes, *plan.notes, *_above(job, plan, before, others)),
        written=False,
        met=plans.is_met(plan, after),
    )
