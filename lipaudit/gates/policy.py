"""Policy: what a user demands of a report."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits, and what may be taken for granted."""

    max_bound: float | None = None
    """Of the whole network."""
    max_norm: float | None = None
    """Of every layer."""
    accept_assumed: bool = False
    """Take an assumed chain of layers for the true graph."""

    @property
    def is_gate(self) -> bool:
        """Whether anything is demanded at all."""
        return self.max_bound is not None or self.max_norm is not None
