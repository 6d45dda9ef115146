"""Reports made by hand, for what draws them: of any size, with names of any kind."""

import math
from dataclasses import replace

from lipaudit.enclosure import Rigor
from lipaudit.results import (
    Bound,
    Certificates,
    Change,
    ClipReport,
    Factor,
    Finding,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Pair,
    Report,
    Running,
    Skipped,
    SpectrumSummary,
    Tool,
    Verdict,
)

HOSTILE = (
    "<script>window.hurt = 1</script>",
    '"><img src=x onerror="window.hurt = 2">',
    "</script><script>window.hurt = 3</script>",
    "javascript:window.hurt=4//",
    "'onmouseover='window.hurt=5",
    "</style><style>body{display:none}</style>",
    "&lt;b&gt; &#x3c;i&#x3e;",
    "line\nbreak\x1b[31m red \u202e turned \u200b",
    "-->]]><!--",
    "\ud800 lone",
    "long" * 250_000,
    "",
)
"""Names that a file may give its layers."""

QUIET = Verdict((), None, 0)


def measure(upper: float, lower: float | None = None, rigor: Rigor = Rigor.PROVED) -> Measure:
    low = upper / 2 if lower is None else lower
    return Measure(low, upper, _log(low), _log(upper), rigor, "by hand")


def _log(value: float) -> float:
    return math.log10(value) if 0 < value < math.inf else (math.inf if value else -math.inf)


def spectrum(top: float, count: int = 40) -> SpectrumSummary:
    curve = tuple((rank, top / rank) for rank in range(1, count + 1))
    return SpectrumSummary(
        count=count,
        complete=True,
        of="",
        rigor=Rigor.PROVED,
        radius=1e-12,
        method="SVD",
        stable_rank=1.5,
        entropy_rank=count / 3,
        numerical_rank=count - 1,
        tolerance=1e-10,
        at_least_one=3,
        quantiles=(top, top / count),
        curve=curve,
    )


def layer(name: str, norm: float = 1.5, kind: str = "Gemm", count: int = 40) -> LayerResult:
    return LayerResult(
        name=name,
        kind=kind,
        tensors=(name,),
        shape=(8, 8),
        dtype="float32",
        parameters=64,
        geometry={},
        in_shape=(8,),
        out_shape=(8,),
        norm=measure(norm),
        reshaped_norm=norm,
        frobenius=2 * norm,
        spectrum=spectrum(norm, count),
        log_share=math.log10(norm) / 10,
    )


def model(*layers: LayerResult, path: str = "net.onnx", bounded: bool = True) -> ModelReport:
    total = 1.0
    factors = []
    for item in layers:
        total *= item.norm.upper
        factors.append(Factor(item.name, item.kind, item.norm, measure(total), measure(1.0)))
    graph = Bound("graph", measure(total), (), tuple(factors))
    least = Bound("sdp", measure(0.75 * total), (), ())
    endless = Bound("averaged", measure(math.inf), (), (), ("one node bends too much",))
    return ModelReport(
        path=path,
        format="onnx",
        sha256="ab" * 32,
        input_shapes={"x": (1, 8)},
        input_shape_source="file",
        topology="stated",
        assumptions=(),
        notes=(),
        alarms=(),
        layers=layers,
        skipped=(),
        bounds=(graph, least, endless) if bounded else (),
        bound=Headline(measure(0.75 * total, 0.5 * total), True, ()) if bounded else None,
    )


def report(*models: ModelReport) -> Report:
    return Report(Tool("0.0", {"torch": "0"}, "cpu"), models)


def hostile() -> tuple[Report, Verdict]:
    """Return a report with hostile text in every place that takes text from a file."""
    bad = HOSTILE[1]
    layers = [layer(name, 1 + at / 7, kind=HOSTILE[at % 3]) for at, name in enumerate(HOSTILE)]
    made = model(*layers, path=bad)
    running = Running(bad, 1.0, measure(1e-3), (bad,), ())
    radii = Certificates(bad, 2, 1, True, (0.1, 0.2), 0.15, {0.1: 0.5}, Rigor.PROVED, bad)
    made = replace(
        made,
        format=bad,
        input_shapes={bad: (1, 8)},
        input_shape_source=bad,
        assumptions=HOSTILE,
        notes=HOSTILE,
        alarms=HOSTILE,
        skipped=tuple(Skipped(name, bad, bad, bad) for name in HOSTILE),
        part=bad,
        pairs=(Pair(bad, bad, bad, measure(1.0)),),
        running=running,
        certificates=radii,
        advice=bad,
        bound=Headline(measure(2.0, 1.0), certified=False, reasons=HOSTILE),
    )
    finding = Finding("LIP001", "error", bad, bad, bad, 2.0, 1.0)
    return report(made), Verdict((finding,), False, 1)


def clipped(*names: str) -> ClipReport:
    changes = [
        Change(name, "Gemm", (name,), measure(2.0 + at), measure(1.0), 0.25, "")
        for at, name in enumerate(names)
    ]
    same = Change("kept", "Gemm", (), measure(0.5), measure(0.5), 0.0, "below the limit")
    return ClipReport("a.pt", "b.pt", 1.0, "scale", (*changes, same), (), ("a note",), True)
