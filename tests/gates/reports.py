"""Reports written by hand, so that a rule is tested on numbers nobody computed."""

import math
from dataclasses import replace
from typing import Any

from lipaudit.enclosure import Rigor
from lipaudit.results import (
    Bound,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Report,
    Skipped,
    Tool,
)

TOOL = Tool("0.1.0", {}, "cpu")


def measure(upper: float, *, lower: float = 0.0, rigor: Rigor = Rigor.PROVED) -> Measure:
    log10 = math.nan if math.isnan(upper) else math.log10(upper) if upper > 0 else -math.inf
    return Measure(
        lower, upper, math.log10(lower) if lower > 0 else -math.inf, log10, rigor, "by hand"
    )


def layer(name: str, norm: float | Measure = 1.0, **changes: Any) -> LayerResult:
    made = LayerResult(
        name=name,
        kind="Linear",
        tensors=(f"{name}.weight",),
        shape=(3, 4),
        dtype="float32",
        parameters=12,
        geometry={},
        in_shape=(4,),
        out_shape=(3,),
        norm=norm if isinstance(norm, Measure) else measure(norm),
        reshaped_norm=None,
        frobenius=None,
        spectrum=None,
    )
    return replace(made, **changes)


def skipped(name: str, slug: str = "non-finite") -> Skipped:
    return Skipped(name, "Linear", slug, "it cannot be measured")


def model(bound: float | Measure | None = None, **changes: Any) -> ModelReport:
    made = ModelReport(
        path="m.pt",
        format="torch (zip)",
        sha256="0" * 64,
        input_shapes={"x": (1, 4)},
        input_shape_source="file",
        topology="stated",
        assumptions=(),
        notes=(),
        alarms=(),
        layers=(layer("a"), layer("b")),
        skipped=(),
    )
    if bound is not None:
        found = bound if isinstance(bound, Measure) else measure(bound)
        made = replace(
            made, bound=Headline(found, True, ()), bounds=(Bound("product", found, (), ()),)
        )
    return replace(made, **changes)


def report(*models: ModelReport) -> Report:
    return Report(TOOL, models)
