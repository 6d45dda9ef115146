"""AbstractBound: a method that bounds the whole network, and the registry of the known ones."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lipaudit.analysis.linear_parts import LinearParts
from lipaudit.analysis.propagate import StepGain
from lipaudit.layers.network import Network
from lipaudit.results import Bound


@dataclass(frozen=True, slots=True)
class Question:
    """What a method is asked: from which inputs to which outputs, knowing every node's gain."""

    network: Network
    gains: tuple[StepGain, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    assumptions: tuple[str, ...]
    expected: Mapping[int, tuple[float, float]]
    """Linear step by number -> stretch of a random direction, and of its adjoint, if known."""
    parts: LinearParts | None
    """The matrices between the bends; None where something between has no gain."""


class AbstractBound(abc.ABC):
    """A method; final subclasses have no state."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One phrase with the paper it is from."""

    @abc.abstractmethod
    def bound(self, question: Question) -> Bound | None:
        """Bound the stretch from all sources together to all targets together.

        None where the method has nothing to say about such a network.
        """


_methods: list[AbstractBound] = []


def register(cls: type[AbstractBound]) -> type[AbstractBound]:
    """Add a method to those that every audit runs."""
    _methods.append(cls())
    return cls


def registered() -> Sequence[AbstractBound]:
    """Return every method in the order of registration."""
    return tuple(_methods)
