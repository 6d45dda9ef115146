"""Certainty: the rules about what has no number, and what therefore cannot be claimed."""

from collections.abc import Iterator

from lipaudit.gates.limits import is_proved
from lipaudit.gates.policy import Policy
from lipaudit.gates.rule import NOTE, UNDECIDED, Rule
from lipaudit.results import NO_LAYER, Finding, ModelReport

NON_FINITE = "non-finite"
WITHOUT_NUMBERS = frozenset({"hidden-tensor", "meta-tensor", "weight-type", "memory"})
"""Slugs of weights that were meant to be measured and have no number, whatever is asked."""


def _non_finite(model: ModelReport, _policy: Policy) -> Iterator[Finding]:
    for skipped in model.skipped:
        if skipped.slug == NON_FINITE:
            yield Finding("LIP003", UNDECIDED, model.path, skipped.name, skipped.reason)


def _not_certified(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    # Asked for nothing but a bound, a report without one is no success either.
    if policy.gates_bound or (model.bound is not None and not policy.is_gate):
        yield from _bound_not_certified(model)
    if policy.gates_layers:
        yield from _norms_not_certified(model, policy)
    else:
        # A layer that was meant to be measured and could not be is no success either.
        for skipped in model.skipped:
            if skipped.slug in WITHOUT_NUMBERS:
                yield _undecided(model, skipped.reason, skipped.name)


def _bound_not_certified(model: ModelReport) -> Iterator[Finding]:
    headline = model.bound
    if headline is None or not headline.measure.is_finite:
        reasons = headline.reasons if headline is not None else ("no bound was asked for",)
        yield _undecided(model, "; ".join(reasons) or "there is no finite bound")
    elif not is_proved(headline.measure):
        yield _undecided(model, f"the bound is {headline.measure.rigor.label}, not proved")
    elif model.topology not in {"stated", "assumed"}:
        yield _undecided(model, "the layer graph is unknown")
    elif model.topology == "stated" and not headline.certified:
        # A quotient was found above the bound: whatever the reason, no one may sign it.
        yield _undecided(model, "; ".join(headline.reasons) or "the bound is not certified")


def _norms_not_certified(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    if not model.layers:
        why = (note for note in model.notes if note.startswith(NO_LAYER))
        yield _undecided(model, next(why, NO_LAYER))
    for layer in model.layers:
        norm = layer.norm
        if not policy.demands_number_of(layer.name) or is_proved(norm):
            continue
        if norm.is_finite:
            yield _undecided(model, f"the norm is {norm.rigor.label}, not proved", layer.name)
        else:
            yield _undecided(model, "the norm has no finite bound", layer.name)
    for skipped in model.skipped:
        if policy.demands_number_of(skipped.name):
            yield _undecided(model, skipped.reason, skipped.name)
    for name in model.without_norm:
        # What holds the bound holds it too, where no limit speaks of the node itself.
        held = policy.gates_bound and policy.limit_of(name) is None
        if policy.demands_number_of(name) and not held:
            message = (
                "its matrices have no norm of their own; limit the bound (max-bound), or "
                "the other layers by name"
            )
            yield _undecided(model, message, name)
    for idle in policy.idle_limits(tuple(layer.name for layer in model.layers)):
        yield _undecided(model, f"the limit for {idle!r} is for no layer of this model")


def _undecided(model: ModelReport, message: str, where: str = "") -> Finding:
    return Finding("LIP004", UNDECIDED, model.path, where, f"not certified: {message}")


def _assumed_topology(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    if model.topology != "assumed" or model.bound is None or not model.bound.measure.is_finite:
        return
    if not policy.gates_bound:
        yield Finding("LIP007", NOTE, model.path, "", "the layer graph is assumed, not stated")
    elif policy.accept_assumed:
        message = "the layer graph is assumed, and taken for true as you asked"
        yield Finding("LIP007", NOTE, model.path, "", message)
    else:
        message = (
            "not certified: the layer graph is assumed, not stated; give --model pkg.mod:factory, "
            "or --assume-sequential to take it for true"
        )
        yield Finding("LIP007", UNDECIDED, model.path, "", message)


NON_FINITE_WEIGHTS = Rule(
    "LIP003",
    "weights that are not numbers",
    "A weight holds NaN or infinite values. Nothing can be said about its layer, nor about a "
    "network with this layer: its outputs are NaN, and `NaN > limit` is false, so that a "
    "careless gate would let it pass.\n\n"
    "What helps: restore an earlier checkpoint; look for a training run that diverged, an "
    "overflow in float16, or a buffer that was never filled.",
    _non_finite,
)
NOT_CERTIFIED = Rule(
    "LIP004",
    "not certified",
    "What was asked can be neither proven nor refuted: an operation without a finite constant, "
    "a layer graph that is unknown, a number that was computed but not proved, a layer without "
    "a number, a limit for layers that do not exist, or nothing to measure at all. An unknown "
    "is never taken for 1 and never passes a gate (exit 3).\n\n"
    "What helps: the message names the layer or node and the cause; `lipaudit explain SLUG` "
    "says more about the word in brackets behind a cause. Often --input-shape, --input-range "
    "or --model pkg.mod:factory is what is missing. A constant that you know can be stated in "
    "the config (constants), and is then printed as an assumption.",
    _not_certified,
)
ASSUMED_TOPOLOGY = Rule(
    "LIP007",
    "assumed topology",
    "The file lists weights but not how they are connected. Their shapes leave one chain as the "
    "only reading, which lipaudit assumes; activations, skips or a second use of a layer would "
    "not show in the file. A bound under this assumption is a statement about that chain, not "
    "about your network, and therefore passes no gate.\n\n"
    "What helps: --model pkg.mod:factory gives the checkpoint its real graph; so does an export "
    "to ONNX or .pt2. If you know the network to be that chain with 1-Lipschitz activations "
    "between its layers, --assume-sequential (assume-sequential = true) takes it for true.",
    _assumed_topology,
)
