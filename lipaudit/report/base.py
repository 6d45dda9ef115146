"""Reporter: a named way to write a report down, and the registry of the known ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lipaudit.results import ClipReport, Report, Verdict


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the text is written for."""

    width: int = 100
    colour: bool = False
    unicode: bool = True
    folder: str = ""
    """The working directory: what names files relative to it; "" where nobody knows it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which layers a person wants to see, and in which order; data formats ignore it."""

    sort: str = ""
    top: int | None = None
    plot: bool = False
    """Whether the spectra are drawn too."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """One format: for audits and for clips."""

    name: str
    summary: str
    audit: Callable[[Report, Verdict, Canvas, Choice], str]
    clip: Callable[[ClipReport, Canvas], str]


_reporters: dict[str, Reporter] = {}
REPORTERS: Mapping[str, Reporter] = MappingProxyType(_reporters)
"""By name, as `-f` takes it."""


def register(reporter: Reporter) -> Reporter:
    """Add a reporter."""
    if reporter.name in _reporters:
        raise ValueError(f"{reporter.name} is a reporter already")
    _reporters[reporter.name] = reporter
    return reporter
