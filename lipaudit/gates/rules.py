"""The rules: each a record with an id, a summary, an explanation and a check."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lipaudit.enclosure import Rigor
from lipaudit.gates.policy import Policy
from lipaudit.results import Finding, Measure, ModelReport

ERROR = "error"
UNDECIDED = "undecided"

Check = Callable[[ModelReport, Policy], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that may be wrong with a model."""

    id: str
    summary: str
    explanation: str
    check: Check


def _bound_over_limit(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    limit, headline = policy.max_bound, model.bound
    if limit is None or headline is None:
        return
    # Only what is proved of the stated graph can fail; the rest cannot be decided (LIP004).
    known = model.topology == "stated" or (model.topology == "assumed" and policy.accept_assumed)
    measure = headline.measure
    if known and measure.is_finite and measure.rigor is Rigor.PROVED and not measure.upper <= limit:
        yield Finding(
            "LIP001", ERROR, model.path, "",
            f"the proved bound of the network is above {limit:g}",
            measure.upper, limit,
        )  # fmt: skip


def _norm_over_limit(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    limit = policy.max_norm
    if limit is None:
        return
    for layer in model.layers:
        if layer.norm.is_finite and not layer.norm.upper <= limit:
            yield Finding(
                "LIP002", ERROR, model.path, layer.name,
                f"its norm is above {limit:g}", layer.norm.upper, limit,
            )  # fmt: skip


def _non_finite(model: ModelReport, _policy: Policy) -> Iterator[Finding]:
    for skipped in model.skipped:
        if skipped.slug == "non-finite":
            yield Finding("LIP003", UNDECIDED, model.path, skipped.name, skipped.reason)


def _not_certified(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    if policy.max_bound is not None or (model.bound is not None and not policy.is_gate):
        yield from _bound_not_certified(model, policy)
    if policy.max_norm is not None:
        yield from _norms_not_certified(model, policy.max_norm)


def _bound_not_certified(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    headline = model.bound
    if headline is None or not headline.measure.is_finite:
        reasons = headline.reasons if headline is not None else ("no bound was asked for",)
        yield _undecided(model, "; ".join(reasons) or "there is no finite bound")
    elif headline.measure.rigor is not Rigor.PROVED:
        yield _undecided(model, f"the bound is {headline.measure.rigor.label}, not proved")
    elif model.topology != "stated" and policy.max_bound is not None and not policy.accept_assumed:
        yield _undecided(
            model,
            "the layer graph is assumed, not stated; give --model pkg.mod:factory, "
            "or --assume-sequential to take it for true",
        )


def _norms_not_certified(model: ModelReport, limit: float) -> Iterator[Finding]:
    if not model.layers:
        yield _undecided(model, "no layer was measured")
    for layer in model.layers:
        if not _is_proved(layer.norm) and layer.norm.upper <= limit:
            yield _undecided(model, f"the norm is {layer.norm.rigor.label}, not proved", layer.name)
        elif not layer.norm.is_finite:
            yield _undecided(model, "the norm has no finite bound", layer.name)
    for skipped in model.skipped:
        yield _undecided(model, skipped.reason, skipped.name)


def _is_proved(measure: Measure) -> bool:
    return measure.rigor is Rigor.PROVED and measure.is_finite


def _undecided(model: ModelReport, message: str, where: str = "") -> Finding:
    return Finding("LIP004", UNDECIDED, model.path, where, f"not certified: {message}")


def _dangerous_pickle(model: ModelReport, _policy: Policy) -> Iterator[Finding]:
    for alarm in model.alarms:
        yield Finding("LIP005", ERROR, model.path, "", f"the file's pickle {alarm}")


RULES = (
    Rule(
        "LIP001",
        "bound over limit",
        "The proved Lipschitz bound of the network is above the limit that --max states.",
        _bound_over_limit,
    ),
    Rule(
        "LIP002",
        "layer norm over limit",
        "The upper end of a layer's norm is above the limit that --max-norm states.",
        _norm_over_limit,
    ),
    Rule(
        "LIP003",
        "weights that are not numbers",
        "A weight holds NaN or infinite values: nothing can be said about the layer.",
        _non_finite,
    ),
    Rule(
        "LIP004",
        "not certified",
        "What was asked cannot be proven: an operation without a finite constant, a graph that "
        "is assumed or unknown, a layer without a number, or nothing to measure at all.",
        _not_certified,
    ),
    Rule(
        "LIP005",
        "dangerous pickle",
        "The file holds a pickle that would call something which acts on the machine. lipaudit "
        "executes nothing; other loaders may.",
        _dangerous_pickle,
    ),
)
