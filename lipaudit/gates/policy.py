"""Policy: what a user demands of a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from lipaudit.comparison import Snapshot
from lipaudit.globs import matches, parts


@dataclass(frozen=True, slots=True)
class LayerLimit:
    """A limit for the norms of some layers."""

    layers: str
    """Globs of names, split at commas."""
    limit: float


@dataclass(frozen=True, slots=True)
class Ignore:
    """A finding that the user has decided to live with, why, and until when."""

    rule: str
    reason: str
    expires: date
    """The last day on which it counts."""
    models: str = "*"
    layers: str | None = None
    """Globs of what the finding is about; None: every finding of the rule."""
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a model measured when the baseline was written, and by how much it may be above."""

    path: str
    """Of the baseline's file."""
    before: Snapshot | None
    """None: the model is not in it."""
    allowed: float = 0.0
    """The increase that is accepted: 0.05 is 5 %."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits, and what may be taken for granted."""

    max_bound: float | None = None
    """Of the whole network."""
    max_norm: float | None = None
    """Of every layer for which there is no limit of its own."""
    accept_assumed: bool = False
    """Take an assumed chain of layers for the true graph."""
    layer_limits: tuple[LayerLimit, ...] = ()
    ignores: tuple[Ignore, ...] = ()
    baseline: Baseline | None = None

    @property
    def is_gate(self) -> bool:
        """Whether anything is demanded at all."""
        return self.gates_bound or self.gates_layers

    @property
    def gates_bound(self) -> bool:
        """Whether something is demanded of the whole network."""
        return self.max_bound is not None or (
            self.baseline is not None
            and self.baseline.before is not None
            and self.baseline.before.bound is not None
        )

    @property
    def gates_layers(self) -> bool:
        """Whether something is demanded of any layer."""
        return self.max_norm is not None or bool(self.layer_limits) or self.baseline is not None

    def limit_of(self, layer: str) -> float | None:
        """Return the limit of a layer's norm: of the globs that match its name the least.

        TOML knows no order of keys, so that neither the first nor the last could win.
        """
        own = [rule.limit for rule in self.layer_limits if matches(layer, rule.layers)]
        return min(own) if own else self.max_norm

    def demands_number_of(self, layer: str) -> bool:
        """Tell whether a layer without a number keeps the gate from passing."""
        return self.baseline is not None or self.limit_of(layer) is not None

    def idle_limits(self, layers: tuple[str, ...]) -> Iterator[str]:
        """Yield the globs of limits that are for none of these layers.

        Each by itself: of "conv*, haed" the misspelt one would leave its layer without a limit.
        """
        globs = dict.fromkeys(glob for rule in self.layer_limits for glob in parts(rule.layers))
        for glob in globs:
            if not any(matches(layer, glob) for layer in layers):
                yield glob
