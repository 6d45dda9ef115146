"""One fixed report that holds everything a file may do to those who read about it."""

import math

from lipaudit.enclosure import Rigor
from lipaudit.results import (
    Bound,
    Certificates,
    Change,
    ClipReport,
    Factor,
    Failure,
    Finding,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Pair,
    Report,
    RuleInfo,
    Running,
    Skipped,
    SpectrumSummary,
    Tool,
    Verdict,
)

LONG = "abcdefghij" * 100_000
"""A name of a megabyte."""
NAMES = {
    "escape": "conv\x1b[31m.weight\x07",
    "newline": "fc\n::error::pwned\r\n::set-output name=x::y",
    "inline": "::error::pwned ##[error]pwned ##vso[task.complete]",
    "formula": "=cmd|' /C calc'!A0",
    "sum": "+1+1",
    "mention": "@team see https://evil.example and www.evil.example #1",
    "script": "<script>alert(1)</script>&amp;\"'",
    "markdown": "a|b`c`|**d** [e](f) <!-- g",
    "xml": "]]>\ufffe\ufffd</testcase>",
    "bidi": "safe\u202egnp.exe\u200b",
    "accents": "a" + "\u0301" * 40,
    "surrogate": "lone\ud800",
    "percent": "100%25,file=x:y",
    "wide": "层\u3000卷积",
    "long": LONG,
    "empty": "",
}


def measure(
    lower: float, upper: float, rigor: Rigor = Rigor.PROVED, method: str = "test"
) -> Measure:
    def log10(value: float) -> float:
        if value == 0:
            return -math.inf
        return math.log10(value) if value < math.inf else math.inf

    return Measure(lower, upper, log10(lower), log10(upper), rigor, method)


UNKNOWN = measure(0.0, math.inf)
OVERFLOW = Measure(1e300, math.inf, 300.0, 412.345678, Rigor.PROVED, "product")
SPECTRUM = SpectrumSummary(
    count=9,
    complete=True,
    of="",
    rigor=Rigor.NUMERICAL,
    radius=1e-12,
    method="singular values",
    stable_rank=2.5,
    entropy_rank=3.25,
    numerical_rank=7,
    tolerance=1e-9,
    at_least_one=2,
    quantiles=(1.5, 1.0, 0.1),
    curve=((1, 1.5), (2, 1.25), (5, 1.0), (9, 0.1)),
)


def layer(name: str, norm: Measure, *, spectrum: SpectrumSummary | None = None) -> LayerResult:
    return LayerResult(
        name=name,
        kind="Conv2d",
        tensors=(f"{name[:60]}.weight",),
        shape=(4, 3, 3, 3),
        dtype="float32",
        parameters=108,
        geometry={"stride": "1x1", "padding": "1x1"},
        in_shape=(3, 8, 8),
        out_shape=None,
        norm=norm,
        reshaped_norm=0.7390000123456789,
        frobenius=math.nan,
        spectrum=spectrum,
        log_share=0.25,
    )


def _names_as_layers() -> tuple[LayerResult, ...]:
    return tuple(
        layer(name, measure(1 / (count + 3), 1 / (count + 2)), spectrum=SPECTRUM)
        for count, name in enumerate(NAMES.values())
    )


def _odd_numbers() -> tuple[LayerResult, ...]:
    return (
        layer("unknown", UNKNOWN),
        layer("overflow", OVERFLOW),
        layer("zero", measure(0.0, 0.0)),
        layer("tiny", measure(5e-324, 2.5e-320)),
        layer("huge", measure(1.5e300, 1.7976931348623157e308)),
        layer("computed", measure(2.0, 2.0000001, Rigor.NUMERICAL)),
        layer("guessed", measure(2.0, 3.0, Rigor.ESTIMATED)),
    )


FACTOR = Factor(
    NAMES["newline"], "Conv2d", measure(1.0, 2.0), measure(0.5, 2.0), UNKNOWN, 0.5, None, math.nan
)
HOSTILE = ModelReport(
    path="models/a b/100%|<net>\n::error::.pt",
    format="torch (zip)",
    sha256="0f" * 32,
    input_shapes={NAMES["newline"]: (1, 3, 8, 8)},
    input_shape_source="file",
    topology="assumed",
    assumptions=("the layers act one after the other",),
    notes=(f"a note about {NAMES['script']}",),
    alarms=(f"would call {NAMES['newline']}",),
    layers=(*_names_as_layers(), *_odd_numbers()),
    skipped=(
        Skipped(NAMES["formula"], "Conv2d", "non-finite", f"NaN in {NAMES['markdown']}"),
        Skipped(LONG, "Loop", "control-flow", "no finite constant"),
    ),
    bounds=(
        Bound("product", OVERFLOW, ("a chain",), (FACTOR,)),
        Bound("graph", UNKNOWN, (), (FACTOR,), (f"no constant for {NAMES['markdown']}",)),
    ),
    bound=Headline(OVERFLOW, certified=False, reasons=("the layer graph is assumed",)),
    part="from a to b",
    pairs=(Pair("x", NAMES["script"], "graph", UNKNOWN),),
    running=Running("float32", 10.0, measure(0.0, 1e-5), ("no overflow",), ()),
    certificates=Certificates(
        "data.npz", 2, 1, labelled=True, radii=(math.inf, 0.0), median=0.5,
        accuracy={0.1: 0.5}, rigor=Rigor.NUMERICAL, of="the exact network",
    ),
    advice=f"scale {NAMES['mention']}",
)  # fmt: skip
PLAIN = ModelReport(
    path="models/plain.onnx",
    format="onnx",
    sha256="ab" * 32,
    input_shapes={"x": (1, 3, 8, 8)},
    input_shape_source="command line",
    topology="stated",
    assumptions=(),
    notes=(),
    alarms=(),
    layers=(layer("conv1", measure(1.25, 1.2500000001)), layer("conv2", measure(0.5, 0.75))),
    skipped=(),
    bounds=(Bound("product", measure(0.0, 0.9375000001), (), ()),),
    bound=Headline(measure(0.3, 0.9375000001), certified=True, reasons=()),
)
BARE = ModelReport(
    path="/elsewhere/bare.safetensors",
    format="safetensors",
    sha256="cd" * 32,
    input_shapes={},
    input_shape_source="unknown",
    topology="unknown",
    assumptions=(),
    notes=(),
    alarms=(),
    layers=(layer("w", measure(1.0, 1.0)),),
    skipped=(),
)
TOOL = Tool("1.2.3", {"python": "3.11", "torch": "2.13.0"}, "cpu")
REPORT = Report(
    TOOL,
    (HOSTILE, PLAIN, BARE),
    failures=(
        Failure(
            "broken\n::error::.pt", "zip", f"is no zip file {NAMES['script']}", "see --help", 2
        ),
    ),
)
RULES = (
    RuleInfo("LIP001", "bound over limit", "The proved bound is above the limit."),
    RuleInfo("LIP002", "layer norm over limit", "The norm of a layer is above the limit."),
    RuleInfo("LIP003", "weights that are not numbers", "A weight holds NaN or infinite values."),
    RuleInfo("LIP004", "not certified", "What was asked cannot be proven."),
)
VERDICT = Verdict(
    (
        Finding("LIP001", "error", HOSTILE.path, "", "the bound is above 2", math.inf, 2.0),
        Finding("LIP002", "error", HOSTILE.path, NAMES["newline"], "above 0.1", 1 / 3, 0.1),
        Finding("LIP002", "error", HOSTILE.path, NAMES["newline"], "above 0.2", 1 / 3, 0.2),
        Finding("LIP002", "error", HOSTILE.path, LONG, "its norm is above 0.01", 0.0625, 0.01),
        Finding("LIP003", "undecided", HOSTILE.path, NAMES["formula"], NAMES["markdown"]),
        Finding("LIP004", "undecided", HOSTILE.path, "", f"not certified: {NAMES['script']}"),
        Finding("LIP999", "note", PLAIN.path, "conv1", NAMES["mention"], math.nan),
    ),
    passed=False,
    exit_code=2,
    rules=RULES,
)
CLIP = ClipReport(
    path="models/plain|.pt",
    output="out/=clipped.pt",
    limit=1.0,
    method="scale",
    changes=(
        Change(
            NAMES["newline"], "Linear", ("a.weight",), measure(1.4, 1.5), measure(0.9, 1.0), 0.5
        ),
        Change(NAMES["formula"], "Conv2d", ("b.weight",), UNKNOWN, measure(0.0, 0.5), math.nan),
        Change("small", "Linear", (), measure(0.2, 0.25), measure(0.2, 0.25), 0.0, "already <= 1"),
        Change(LONG, "Linear", (), measure(0.2, 0.25), measure(0.2, 0.25), 0.0, NAMES["script"]),
    ),
    skipped=(Skipped(NAMES["markdown"], "Loop", "control-flow", NAMES["mention"]),),
    notes=(NAMES["script"],),
    written=True,
)
