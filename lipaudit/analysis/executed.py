"""Executed: what is true of the network as it runs, in floating point.

A network that runs in float32 is not L-Lipschitz for any useful L: between neighbouring inputs
its rounding errors jump. What holds, with f the exact-real function of the stored weights, f̂ the
running one, and E from `rounding.arithmetic`, layer by layer, on all inputs of norm at most r, is

    ‖f̂(x) - f(x)‖ <= E,   hence   ‖f̂(x) - f̂(y)‖ <= L‖x - y‖ + 2E.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lipaudit.analysis.forward import largest_bytes
from lipaudit.analysis.layerwise import kind, title
from lipaudit.analysis.propagate import StepGain, is_continuous
from lipaudit.analysis.rounding.arithmetic import Arithmetic, Signal, Unprovable
from lipaudit.analysis.rounding.place import Place
from lipaudit.analysis.rounding.table import passed
from lipaudit.device import DEFAULT_MEMORY
from lipaudit.enclosure import ZERO, Enclosure, Rigor, root_sum_of_squares
from lipaudit.errors import LipauditError, UsageError
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import Gain, Unbounded
from lipaudit.layers.network import Network, Opaque, Step, is_loose

_CONVENTIONAL = (
    "inner products are sums of products, in any order, with or without fused multiply-add "
    "(no TF32, Winograd, FFT or Strassen)"
)


@dataclass(frozen=True, slots=True)
class Executed:
    """The statement about the running network, or why there is none."""

    dtype: str
    radius: float
    error: Enclosure
    """E over all outputs jointly, an upper end; PROVED, or unknown."""
    assumptions: tuple[str, ...]
    reasons: tuple[str, ...]
    """Why E is not known: "Softmax 'node_3': ..."."""


def executed(
    network: Network,
    gains: Sequence[StepGain],
    *,
    dtype: str,
    radius: float,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    accumulate: str | None = None,
    max_memory: int = DEFAULT_MEMORY,
) -> Executed:
    """Bound how far the running network is from the exact one, on inputs of norm <= radius.

    `gains` are those of `propagate.step_gains`. Halves are taken to be summed up in float32, as
    CPUs and GPUs do, unless `accumulate` is "same". A layer with a constant that takes more than
    `max_memory` bytes in float64 is not looked at.
    """
    if not (math.isfinite(radius) and radius >= 0):
        raise UsageError(
            f"no statement on inputs of norm at most {radius!r}",
            slug="input-radius",
            hint="give a finite number that is not negative",
        )
    walk = _Walk(network, Arithmetic.of(dtype, accumulate), targets, max_memory)
    for name in sources:
        walk.edges[name] = Signal(Enclosure.at_most(radius), ZERO)
    for step, gain in zip(network.steps, gains, strict=True):
        walk.visit(step, gain)
    error = root_sum_of_squares(walk.error_at(name) for name in targets).without_lower()
    return Executed(
        dtype=dtype,
        radius=radius,
        error=error if not walk.reasons else Enclosure.unknown(),
        assumptions=(*_model(walk.arithmetic, radius), *sorted(walk.assumed)),
        reasons=tuple(walk.reasons),
    )


def _model(arithmetic: Arithmetic, radius: float) -> tuple[str, ...]:
    """Say what is assumed of the machine, and of the inputs."""
    kept, sums = arithmetic.kept.name, arithmetic.summed.name
    mixed = (
        f"; inner products and functions are computed in {sums} and rounded to {kept}"
        if arithmetic.is_mixed
        else ""
    )
    return (
        f"every real value is kept in {kept}, rounded to nearest, with gradual underflow{mixed}",
        _CONVENTIONAL,
        f"inputs are exact in {kept}, of norm at most {radius:g}",
    )


class _Walk:
    """The state of the one pass: what is known of every edge so far."""

    def __init__(
        self, network: Network, arithmetic: Arithmetic, targets: Sequence[str], max_memory: int
    ) -> None:
        self.network = network
        self.max_memory = max_memory
        self.arithmetic = arithmetic
        self.needed = _needed(network, targets)
        # None: the reason is stated already.
        self.edges: dict[str, Signal | None] = {}
        self.assumed: set[str] = set()
        self.reasons: list[str] = []

    def visit(self, step: Step, gain: StepGain) -> None:
        """Carry what arrives at a node on to what leaves it, or note why that is not possible."""
        if not self.needed.intersection(step.node.outputs):
            return
        leaving: Signal | None = None
        known = [self.edges[name] for name in step.signals if name in self.edges]
        arriving = [signal for signal in known if signal is not None]
        if len(arriving) == len(known):
            try:
                leaving = self._leaving(step, gain, arriving)
            except Unprovable as problem:
                self._refuse(step, problem.reason)
            except LipauditError as problem:
                self._refuse(step, problem.cause)
        self.edges.update({name: leaving for name in step.node.outputs if name})

    def error_at(self, target: str) -> Enclosure:
        """Return the error of an output of the network."""
        if target in self.edges:
            signal = self.edges[target]
            return Enclosure.unknown() if signal is None else signal.error
        self.reasons.append(f"output {target!r}: it does not come from the network's inputs")
        return Enclosure.unknown()

    def _refuse(self, step: Step, reason: str) -> None:
        self.reasons.append(f"{kind(step)} {title(step)!r}: {reason}")

    def _leaving(self, step: Step, gain: StepGain, arriving: Sequence[Signal]) -> Signal:
        held = [name for name in step.signals if name not in self.edges]
        if held:
            raise Unprovable(f"nothing is known of the size of its input {held[0]!r}")
        if isinstance(gain, Unbounded):
            raise Unprovable(gain.reason)
        if isinstance(step.layer, Opaque) or is_loose(step.node):
            raise Unprovable("it cannot be run")
        taken = largest_bytes(step)
        if taken > self.max_memory:
            raise Unprovable(
                f"how its weight rounds takes {taken:,} bytes in float64, over --max-memory "
                f"({self.max_memory:,} bytes)"
            )
        place = self._place(step, gain)
        leaving = passed(place, step.layer, arriving)
        if min(leaving.value.rigor, leaving.error.rigor) is not Rigor.PROVED:
            raise Unprovable("its norm is not proved")
        self.assumed |= place.assumed
        if len(step.node.origin) > 1:
            self.assumed.add(f"run as one layer: {' + '.join(step.node.origin)}")
        return leaving

    def _place(self, step: Step, gain: Gain) -> Place:
        types: Mapping[str, str] = self.network.dtypes
        made = step.node.outputs[0]
        for name in (*step.signals, made):
            if not is_continuous(types.get(name, "float32")):
                raise Unprovable(f"it handles values of type {types[name]}")
        return Place(
            node=step.node,
            gain=gain,
            constants=step.constants,
            shapes=tuple(self._shape(name) for name in step.signals),
            made=self._shape(made),
            arithmetic=self.arithmetic,
        )

    def _shape(self, edge: str) -> Shape:
        shape = self.network.shapes.get(edge)
        if shape is None:
            raise Unprovable(f"the shape of {edge!r} is not known; give --input-shape")
        return shape


def _needed(network: Network, targets: Sequence[str]) -> set[str]:
    """Return the edges that some target depends on."""
    reached = set(targets)
    for step in reversed(network.steps):
        if reached.intersection(step.node.outputs):
            reached.update(step.signals)
    return reached
