"""Rules: each fires on what it is about, and on nothing else; a doubt never passes."""

import math
from dataclasses import replace
from datetime import date

import pytest

from lipaudit.comparison import LayerSnapshot, Snapshot
from lipaudit.enclosure import Rigor
from lipaudit.gates.catalog import INFOS, RULES
from lipaudit.gates.judge import judge
from lipaudit.gates.policy import Baseline, Ignore, LayerLimit, Policy
from lipaudit.results import Headline, ModelReport, Running
from tests.gates.reports import layer, measure, model, report, skipped

NUMERICAL = Rigor.NUMERICAL


def found(one: ModelReport, policy: Policy) -> list[tuple[str, str, str]]:
    return [(f.rule, f.severity, f.where) for f in judge(report(one), policy).findings]


def code(one: ModelReport, policy: Policy) -> int:
    return judge(report(one), policy).exit_code


def test_every_rule_is_described_once_and_in_order() -> None:
    ids = [rule.id for rule in RULES]
    assert ids == [f"LIP{number:03d}" for number in range(1, len(RULES) + 1)]
    for info in INFOS:
        assert info.summary
        assert len(info.explanation) > 200
        assert "What helps:" in info.explanation
    assert judge(report(model()), Policy()).rules == INFOS


@pytest.mark.parametrize(
    ("bound", "topology", "accept", "wanted", "exit_code"),
    [
        (2.0, "stated", False, [], 0),
        (math.nextafter(2.0, 3), "stated", False, [("LIP001", "error", "")], 1),
        (math.inf, "stated", False, [("LIP004", "undecided", "")], 3),
        (math.nan, "stated", False, [("LIP004", "undecided", "")], 3),
        (measure(1.0, rigor=NUMERICAL), "stated", False, [("LIP004", "undecided", "")], 3),
        (measure(9.0, rigor=NUMERICAL), "stated", False, [("LIP004", "undecided", "")], 3),
        (None, "stated", False, [("LIP004", "undecided", "")], 3),
        (1.0, "assumed", False, [("LIP007", "undecided", "")], 3),
        (9.0, "assumed", False, [("LIP007", "undecided", "")], 3),
        (1.0, "assumed", True, [("LIP007", "note", "")], 0),
        (9.0, "assumed", True, [("LIP001", "error", ""), ("LIP007", "note", "")], 1),
        (1.0, "unknown", True, [("LIP004", "undecided", "")], 3),
    ],
)
def test_a_bound_passes_only_where_it_is_proved_of_the_true_graph(
    bound: float | None,
    topology: str,
    accept: bool,
    wanted: list[tuple[str, str, str]],
    exit_code: int,
) -> None:
    one = model(bound, topology=topology)
    policy = Policy(max_bound=2.0, accept_assumed=accept)
    verdict = judge(report(one), policy)
    assert [(f.rule, f.severity, f.where) for f in verdict.findings] == wanted
    assert verdict.exit_code == exit_code
    assert verdict.passed is (exit_code == 0)


@pytest.mark.parametrize(
    ("norm", "wanted"),
    [
        (measure(2.0), []),
        (measure(2.1), [("LIP002", "error", "a")]),
        (measure(math.inf, lower=2.1), [("LIP002", "error", "a"), ("LIP004", "undecided", "a")]),
        (measure(math.inf, lower=1.9), [("LIP004", "undecided", "a")]),
        (measure(math.nan), [("LIP004", "undecided", "a")]),
        (measure(1.0, rigor=NUMERICAL), [("LIP004", "undecided", "a")]),
        (measure(3.0, rigor=NUMERICAL), [("LIP004", "undecided", "a")]),
        (measure(1.0, rigor=Rigor.ESTIMATED), [("LIP004", "undecided", "a")]),
    ],
)
def test_a_norm_passes_only_where_it_is_proved(
    norm: object, wanted: list[tuple[str, str, str]]
) -> None:
    one = model(layers=(layer("a", norm), layer("b")))  # type: ignore[arg-type]  # a measure
    assert found(one, Policy(max_norm=2.0)) == wanted


def test_layers_have_limits_of_their_own_and_of_several_the_least_counts() -> None:
    one = model(layers=(layer("head.0", 4.0), layer("head.1", 4.0), layer("body", 1.5)))
    own = (LayerLimit("head.*", 5.0), LayerLimit("head.1, *.1", 3.0))
    policy = Policy(max_norm=1.0, layer_limits=own)
    assert found(one, policy) == [("LIP002", "error", "head.1"), ("LIP002", "error", "body")]
    limits = {f.where: f.limit for f in judge(report(one), policy).findings}
    assert limits == {"head.1": 3.0, "body": 1.0}
    # The order of a TOML table means nothing.
    assert found(one, replace(policy, layer_limits=own[::-1])) == found(one, policy)


def test_a_limit_for_no_layer_does_not_pass() -> None:
    policy = Policy(layer_limits=(LayerLimit("haed.*", 5.0),))
    assert found(model(), policy) == [("LIP004", "undecided", "")]
    assert code(model(), policy) == 3


def test_every_glob_of_a_list_needs_a_layer() -> None:
    # "a, hed": the misspelt part would leave a layer without its limit, unseen.
    policy = Policy(layer_limits=(LayerLimit("a, hed", 5.0), LayerLimit("hed, b", 4.0)))
    (finding,) = judge(report(model()), policy).findings
    assert (finding.rule, finding.severity) == ("LIP004", "undecided")
    assert "'hed'" in finding.message
    assert code(model(), policy) == 3
    assert code(model(), Policy(layer_limits=(LayerLimit("a, b", 5.0),))) == 0


def test_a_bound_below_what_was_found_does_not_pass() -> None:
    # Two inputs were found that the bound does not allow: it is certified by nobody.
    odd = Headline(measure(1.0, lower=1.5), False, ("a quotient was found above the bound",))
    one = replace(model(1.0), bound=odd)
    assert found(one, Policy(max_bound=9.0)) == [("LIP004", "undecided", "")]
    assert judge(report(one), Policy(max_bound=9.0)).passed is False


@pytest.mark.parametrize("policy", [Policy(max_norm=9.0), Policy(max_bound=9.0)])
def test_nothing_analysed_does_not_pass(policy: Policy) -> None:
    assert code(model(layers=()), policy) == 3
    assert judge(report(), policy).exit_code == 3
    assert judge(report(), policy).passed is False


def test_a_layer_without_a_number_does_not_pass() -> None:
    one = model(skipped=(skipped("c", "memory"),))
    assert found(one, Policy(max_norm=9.0)) == [("LIP004", "undecided", "c")]
    # A limit for other layers says nothing of it.
    assert found(one, Policy(layer_limits=(LayerLimit("a", 9.0),))) == []
    assert code(one, Policy(layer_limits=(LayerLimit("[ac]", 9.0),))) == 3


def test_numbers_that_are_none_are_reported_without_any_gate() -> None:
    assert found(model(skipped=(skipped("c"),)), Policy()) == [("LIP003", "undecided", "c")]
    assert found(model(skipped=(skipped("c", "memory"),)), Policy()) == [
        ("LIP004", "undecided", "c")
    ]
    assert found(model(skipped=(skipped("c", "no-layer"),)), Policy()) == []


def test_a_dangerous_pickle_fails_without_any_gate() -> None:
    assert found(model(alarms=("calls os.system",)), Policy()) == [("LIP005", "error", "")]
    assert code(model(alarms=("calls os.system",)), Policy()) == 1
    assert found(model(), Policy()) == []


def before(bound: float | None = 2.0, **norms: float) -> Snapshot:
    layers = tuple(
        LayerSnapshot(n, measure(norm)) for n, norm in (norms or {"a": 1, "b": 1}).items()
    )
    return Snapshot(
        "m.pt",
        layers,
        bound=None if bound is None else measure(bound),
        input_shapes={"x": (1, 4)},
        version="0.1.0",
    )


def against(snapshot: Snapshot | None, allowed: float = 0.0) -> Policy:
    return Policy(baseline=Baseline("base.json", snapshot, allowed))


@pytest.mark.parametrize(
    ("now", "then", "allowed", "wanted"),
    [
        (2.0, 2.0, 0.0, []),
        (2.0 * (1 + 5e-10), 2.0, 0.0, []),
        (2.0 * (1 + 5e-9), 2.0, 0.0, [("LIP006", "error", "")]),
        (1.0, 2.0, 0.0, []),
        (2.099, 2.0, 0.05, []),
        (2.101, 2.0, 0.05, [("LIP006", "error", "")]),
        (1e-300, 0.0, 0.05, [("LIP006", "error", "")]),
        (2.0, math.inf, 0.05, [("LIP006", "undecided", "")]),
        (2.0, math.nan, 0.05, [("LIP006", "undecided", "")]),
    ],
)
def test_growth_over_the_baseline(
    now: float, then: float, allowed: float, wanted: list[tuple[str, str, str]]
) -> None:
    assert found(model(now), against(before(then), allowed)) == wanted


def test_growth_past_the_range_of_floats_is_seen() -> None:
    huge = replace(measure(math.inf), log10_upper=400.0)
    larger = replace(measure(math.inf), log10_upper=401.0)
    old = replace(before(), bound=huge)
    assert found(model(huge), against(old)) == []
    assert found(model(larger), against(old, 0.05)) == [("LIP006", "error", "")]


def test_what_cannot_be_compared_with_the_baseline_does_not_pass() -> None:
    undecided = [("LIP006", "undecided", "")]
    assert found(model(2.0), against(None)) == undecided
    assert found(model(2.0, input_shapes={"x": (1, 9)}), against(before())) == undecided
    limited = replace(before(), assumptions=("every item of the input lies in [0, 1]",))
    assert found(model(2.0), against(limited)) == undecided
    # An unknown bound is no decrease, and neither is one that was only computed.
    rules = {rule for rule, _, _ in found(model(measure(1.0, rigor=NUMERICAL)), against(before()))}
    assert rules == {"LIP004", "LIP006"}
    assert code(model(), against(before())) == 3
    assert code(model(2.0, skipped=(skipped("c", "memory"),)), against(before())) == 3


def test_layers_are_held_against_the_baseline() -> None:
    assert found(model(2.0), against(before(a=1, b=0.5))) == [("LIP006", "error", "b")]
    assert found(model(2.0), against(before(a=1))) == [("LIP006", "undecided", "b")]
    assert found(model(2.0), against(before(a=1, b=1, c=7))) == [("LIP006", "note", "c")]
    assert found(model(2.0), against(before(a=1, b=math.nan))) == [("LIP006", "undecided", "b")]


def test_a_baseline_of_another_version_is_said() -> None:
    old = replace(before(), version="0.0.9")
    (finding,) = judge(report(model(2.0)), against(old)).findings
    assert (finding.rule, finding.severity) == ("LIP006", "note")
    assert "0.0.9" in finding.message
    assert code(model(2.0), against(old)) == 0


def running(error: float) -> Running:
    return Running("float16", 10.0, measure(error), (), ("a node is not modelled",))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (0.1, []),
        (19.9, []),
        (20.0, [("LIP008", "undecided", "")]),
        (math.inf, [("LIP008", "undecided", "")]),
        (math.nan, [("LIP008", "undecided", "")]),
    ],
)
def test_rounding_must_not_outweigh_the_bound(
    error: float, wanted: list[tuple[str, str, str]]
) -> None:
    assert found(model(2.0, running=running(error)), Policy(max_bound=9.0)) == wanted
    assert found(model(2.0, running=running(error)), Policy()) == []


@pytest.mark.parametrize(
    ("dtype", "fires"), [("float16", True), ("bfloat16", True), ("int8", True), ("float32", False)]
)
def test_coarse_weights_are_noted(dtype: str, fires: bool) -> None:
    one = model(2.0, layers=(layer("a", dtype=dtype),))
    assert found(one, Policy(max_bound=9.0)) == [("LIP008", "note", "")] * fires
    assert code(one, Policy(max_bound=9.0)) == 0
    # Where no bound was asked for there is nothing to be misunderstood.
    assert found(replace(one, bound=None), Policy()) == []


def ignore(**changes: object) -> Ignore:
    made = Ignore("LIP002", "the head is retrained", date(2030, 1, 1))
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def test_an_ignored_finding_stays_visible_and_changes_nothing() -> None:
    policy = Policy(max_norm=0.5, ignores=(ignore(layers="a"),))
    findings = judge(report(model()), policy).findings
    assert [(f.severity, f.where) for f in findings] == [("note", "a"), ("error", "b")]
    assert "ignored until 2030-01-01 (the head is retrained)" in findings[0].message
    both = replace(policy, ignores=(ignore(),))
    assert judge(report(model()), both).passed is True
    assert code(model(), both) == 0


def test_an_ignore_covers_only_its_rule() -> None:
    policy = Policy(max_bound=1.0, ignores=(ignore(),))
    severities = {(f.rule, f.severity) for f in judge(report(model(2.0)), policy).findings}
    assert severities == {("LIP001", "error"), ("LIP009", "note")}
    assert code(model(2.0), policy) == 1


def test_an_ignore_that_one_model_needs_is_not_idle() -> None:
    one, other = model(), model(path="n.pt", layers=(layer("a", 0.1),))
    verdict = judge(report(one, other), Policy(max_norm=0.5, ignores=(ignore(),)))
    assert {(f.rule, f.model) for f in verdict.findings} == {("LIP002", "m.pt")}
    verdict = judge(report(other, other), Policy(max_norm=0.5, ignores=(ignore(),)))
    assert [(f.rule, f.severity) for f in verdict.findings] == [("LIP009", "note")]


def test_an_expired_ignore_ignores_nothing_and_fails() -> None:
    policy = Policy(max_norm=0.5, ignores=(ignore(expired=True),))
    assert [rule for rule, _, _ in found(model(), policy)] == ["LIP002", "LIP002", "LIP009"]
    harmless = replace(policy, max_norm=2.0)
    assert found(model(), harmless) == [("LIP009", "error", "")]
    assert code(model(), harmless) == 1


def test_an_ignore_of_a_layer_does_not_cover_the_whole_model() -> None:
    policy = Policy(max_bound=1.0, ignores=(ignore(rule="LIP001", layers="*"),))
    assert code(model(2.0), policy) == 1


def test_each_model_has_its_own_policy_and_the_worst_code_speaks() -> None:
    one, other = model(2.0), model(2.0, path="n.pt")
    policies = {"m.pt": Policy(max_bound=9.0), "n.pt": Policy(max_bound=1.0)}
    verdict = judge(report(one, other), policies)
    assert [finding.model for finding in verdict.findings] == ["n.pt"]
    assert verdict.exit_code == 1
    unknown = replace(one, bound=Headline(measure(math.inf), False, ("no graph",)))
    assert judge(report(unknown, other), policies).exit_code == 1
    assert judge(report(unknown), policies).exit_code == 3
