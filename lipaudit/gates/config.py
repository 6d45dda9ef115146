"""Config: what `[tool.lipaudit]` demands, as data that was checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from lipaudit.gates.policy import Ignore, LayerLimit

EVERY_INPUT = ""
"""Name under which a shape or range stands that is for every input."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How models are measured, and their limits; None where nothing is said."""

    max_bound: float | None = None
    max_norm: float | None = None
    max_increase: float | None = None
    layers: tuple[LayerLimit, ...] | None = None
    input_shape: Mapping[str, str] | None = None
    input_range: Mapping[str, tuple[float, float]] | None = None
    model: str | None = None
    hf: bool | None = None
    assume_sequential: bool | None = None
    executed: str | None = None
    input_radius: float | None = None
    constants: Mapping[str, float] | None = None

    def over(self, below: "Settings") -> "Settings":
        """Return these settings, and where they say nothing the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.layers is not None and below.layers is not None:
            # Glob by glob: what is said of some layers must not free the others.
            stated = {rule.layers for rule in self.layers}
            kept = tuple(rule for rule in below.layers if rule.layers not in stated)
            own["layers"] = (*kept, *self.layers)
        return replace(below, **{name: value for name, value in own.items() if value is not None})

    @property
    def has_limit(self) -> bool:
        """Whether a model can fail by them alone."""
        return self.max_bound is not None or self.max_norm is not None or bool(self.layers)


@dataclass(frozen=True, slots=True)
class Entry:
    """One `[[models]]` entry: which files, and what is said of them alone."""

    place: str
    """Its name in messages: "models[0]"."""
    paths: tuple[str, ...]
    """Globs, relative to the config's folder."""
    settings: Settings


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config; without a file everything comes from the command line."""

    file: str = ""
    """As messages name it; "" where there is none."""
    folder: str = "."
    """To which paths in it are relative."""
    defaults: Settings = Settings()
    models: tuple[Entry, ...] = ()
    ignores: tuple[Ignore, ...] = ()
    baseline: str | None = None
    """Path of the baseline, from the working directory."""
    device: str | None = None
    max_memory: int | None = None
    """In bytes."""
    workers: int | None = None
    """Processes that measure layers side by side; 0: one for each core."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers do."""
    cache: str | None = None
    """Folder in which results are kept, from the working directory, or "off"."""
