"""Query: what is asked about a network besides its bound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lipaudit.analysis.samples import Samples
from lipaudit.errors import UsageError
from lipaudit.graph.node import Edge

Ranges = Mapping[str, tuple[float, float]]
"""Input -> between which numbers its items lie; "" stands for every other real-valued input."""


@dataclass(frozen=True, slots=True)
class Query:
    """Where the bound is taken, on which inputs, and what else is wanted."""

    start: str | None = None
    """Node (or edge) at which the part begins; None: the network's inputs."""
    end: str | None = None
    ranges: Ranges = field(default_factory=dict)
    executed: str | None = None
    """The floating type of the running network, where a statement about it is wanted."""
    radius: float | None = None
    """The largest norm of its inputs."""
    samples: Samples | None = None
    distances: tuple[float, ...] = ()
    """At which the certified accuracy is wanted."""
    limit: float | None = None
    """Under which the bound should be: asks for advice."""
    spectra: bool = False
    """Whether the layers' singular values are wanted too: the bound itself needs none."""

    def check(self) -> None:
        """Raise `UsageError` where the wishes make no sense."""
        for name, (low, high) in self.ranges.items():
            if not (low <= high and math.isfinite(low) and math.isfinite(high)):
                raise UsageError(
                    f"no input lies between {low:g} and {high:g}",
                    slug="input-range",
                    hint=f"write it like --input-range {name + '=' if name else ''}0,1",
                )
        if (self.executed is None) != (self.radius is None):
            raise UsageError(
                "--executed and --input-radius go together",
                slug="input-radius",
                hint="as in --executed float32 --input-radius 10",
            )
        if self.distances and self.samples is None:
            raise UsageError("--eps needs samples", slug="data", hint="give --data FILE.npz")

    def check_names(self, inputs: tuple[Edge, ...]) -> None:
        """Raise `UsageError` where a range is for an input that there is not."""
        names = {edge.name for edge in inputs}
        unknown = [name for name in self.ranges if name and name not in names]
        if unknown:
            listed = ", ".join(repr(name) for name in sorted(names))
            raise UsageError(
                f"the network has no input {unknown[0]!r}",
                slug="input-name",
                hint=f"it has {listed}",
            )

    def box(self, sources: tuple[str, ...]) -> Ranges:
        """Return the range of every input that has one, by its name."""
        spans = {name: self.ranges.get(name, self.ranges.get("")) for name in sources}
        return {name: span for name, span in spans.items() if span is not None}
