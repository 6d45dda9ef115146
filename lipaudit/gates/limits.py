"""Limits: the rules that hold a number against one the user stated.

A proved upper end at or below the limit passes, a proved end above it fails, and everything
else is left to the rule of what is not certified. Comparisons are written so that one that is
false for an odd number (`nan <= limit`) never makes a gate pass.
"""

from collections.abc import Iterator

from lipaudit.enclosure import Rigor
from lipaudit.gates.policy import Policy
from lipaudit.gates.rule import ERROR, Rule
from lipaudit.results import Finding, Measure, ModelReport


def is_proved(measure: Measure) -> bool:
    """Tell whether the upper end is finite and proved."""
    return measure.rigor is Rigor.PROVED and measure.is_finite


def is_settled(model: ModelReport, policy: Policy) -> bool:
    """Tell whether a bound over the model's graph may be held against a limit."""
    return model.topology == "stated" or (model.topology == "assumed" and policy.accept_assumed)


def _bound_over_limit(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    limit, headline = policy.max_bound, model.bound
    if limit is None or headline is None or not is_settled(model, policy):
        return
    # The lower end of a headline is sampled, never proved: only the upper one can fail.
    measure = headline.measure
    if is_proved(measure) and not measure.upper <= limit:
        yield Finding(
            "LIP001", ERROR, model.path, "",
            f"the proved bound of the network is above {limit:g}",
            measure.upper, limit,
        )  # fmt: skip


def _norm_over_limit(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    for layer in model.layers:
        limit, norm = policy.limit_of(layer.name), layer.norm
        if limit is None or norm.rigor is not Rigor.PROVED or norm.upper <= limit:
            continue
        if norm.is_finite:
            message, end = f"its proved norm is above {limit:g}", norm.upper
        elif norm.lower > limit:
            message, end = f"its norm is proved to be above {limit:g}", norm.lower
        else:
            continue
        yield Finding("LIP002", ERROR, model.path, layer.name, message, end, limit)


BOUND_OVER_LIMIT = Rule(
    "LIP001",
    "bound over limit",
    "The proved upper bound of the network's Lipschitz constant is above its limit (--max, or "
    "max-bound in the config). Outputs may then move further than you decided to allow when an "
    "input moves a little. The network itself may still be below the limit: an upper bound can "
    "be loose, and the report shows by how much at most.\n\n"
    "What helps: give --input-shape if the norms are those for any input size; state the "
    "inputs' range (--input-range) if gates, attention or quotients take part; look in "
    "`lipaudit bound` for the layers with the largest gain and clip them (`lipaudit clip`) or "
    "train them with a constraint; or raise the limit.",
    _bound_over_limit,
)
NORM_OVER_LIMIT = Rule(
    "LIP002",
    "layer norm over limit",
    "The operator norm of a layer, its largest singular value as the network uses it (padding, "
    "stride and groups included), is above its limit (--max-norm, max-norm, or an entry of "
    "[layers] in the config). Signals and gradients can grow by that factor in this one layer.\n\n"
    "What helps: `lipaudit clip --to LIMIT` writes a copy that provably meets the limit; give "
    "--input-shape if the norm is the one for any input size; or raise the limit for this layer "
    "by a glob of its name under [layers]. Note that the norm of the reshaped kernel, which "
    "spectral normalization holds down, is another number.",
    _norm_over_limit,
)
