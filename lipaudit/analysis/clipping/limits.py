"""Limits: how large the norm of each layer may be."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lipaudit.analysis.layerwise import matches
from lipaudit.errors import UsageError
from lipaudit.globs import parts


@dataclass(frozen=True, slots=True)
class Limits:
    """One limit for all layers, others for some, and which layers are meant at all."""

    to: float | None = None
    """None: layers without a limit of their own are left alone."""
    by_glob: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By globs of names, split at commas."""
    only: str | None = None
    """Globs of the layers that may be changed, split at commas; None: all."""

    def check(self) -> None:
        """Raise unless every limit is a positive finite number."""
        stated = {"--to": self.to, **self.by_glob}
        for name, limit in stated.items():
            if limit is not None and not (limit > 0 and math.isfinite(limit)):
                raise UsageError(
                    f"cannot clip to {limit}" + (f" ({name!r})" if name != "--to" else ""),
                    slug="clip-limit",
                    hint="a limit is a positive number",
                )

    def check_names(self, names: Iterable[str]) -> None:
        """Raise if a glob matches no layer: a misspelt one must not leave a layer as it is."""
        known = list(names)
        lists = [*self.by_glob, *([] if self.only is None else [self.only])]
        for glob in (part for globs in lists for part in parts(globs)):
            if known and not any(matches(name, glob) for name in known):
                raise UsageError(
                    f"no layer is called {glob!r}",
                    slug="clip-layers",
                    hint="`lipaudit inspect` lists the layers",
                )

    def of(self, name: str) -> float | None:
        """Return the limit of a layer: the least of its own ones, or else the general one."""
        if not matches(name, self.only):
            return None
        own = [limit for glob, limit in self.by_glob.items() if matches(name, glob)]
        return min(own, default=self.to)
