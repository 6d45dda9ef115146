"""Monitor: norms of the layers while a network trains, handed to any logger."""

import math
from collections.abc import Callable
from types import TracebackType
from typing import final

import torch
from torch import nn

from lipaudit.analysis.shapes import InputShape
from lipaudit.operators.base import Shape
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.torch.certificate import proved_norm
from lipaudit.torch.layers import Layer, check_glob, count_of, find
from lipaudit.torch.probe import AbstractProbe, near_one, probe
from lipaudit.torch.sizes import KnownSizes, largest

Log = Callable[[dict[str, float], int], object]
_Kind = tuple[Shape, ConvGeometry | None, Shape | None]


@final
class Monitor:
    """Measures every `every`-th step and calls `log({name: value}, step)`.

    `LAYER/norm_at_least` is a lower bound by power iteration, warm-started from the last time and
    therefore close after a few of them; with `proved`, `LAYER/norm_at_most` is a proved upper
    bound, which costs what an audit of the layer costs. Of a convolution that is used at several
    sizes, the first is a bound for the largest of them, the second for all.

    Call `step()` after each step of the optimizer; as a context manager it logs once more at the
    end. Nothing is hooked into the module.

        with Monitor(net, log=writer) as monitor:
            for batch in data:
                ...
                monitor.step()
    """

    def __init__(
        self,
        module: nn.Module,
        log: Log,
        every: int = 100,
        layers: str | None = None,
        *,
        proved: bool = False,
        input_shape: InputShape = None,
        power_steps: int = 2,
    ) -> None:
        """Remember what to watch; the first look comes with the first measurement."""
        check_glob(layers)
        self.module, self.log = module, log
        self.every = count_of("every", every, "monitor-every")
        self.steps = 0
        self._layers, self._proved = layers, proved
        self._input_shape = input_shape
        self._power_steps = count_of("power_steps", power_steps, "monitor-every")
        self._sizes = KnownSizes()
        self._probes: dict[str, tuple[_Kind, AbstractProbe]] = {}
        self._logged = -1

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._logged != self.steps:
            self.record()

    def step(self) -> None:
        """Count a step of the optimizer; measure and log if it is time."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.record()

    def record(self) -> dict[str, float]:
        """Measure and log now."""
        values = self.measure()
        self._logged = self.steps
        self.log(values, self.steps)
        return values

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the norms as they are now, without logging them."""
        layers = find(self.module, self._layers)
        known = self._sizes.of(self.module, layers, self._input_shape)
        values: dict[str, float] = {}
        for layer in layers:
            if layer.is_absent:
                continue
            weight, sizes = layer.values(), known.get(layer.name, ())
            values[f"{layer.name}/norm_at_least"] = self._norm(layer, weight, largest(sizes))
            if self._proved:
                values[f"{layer.name}/norm_at_most"] = proved_norm(layer, weight, sizes).upper
        return values

    def _norm(self, layer: Layer, weight: torch.Tensor, in_shape: Shape | None) -> float:
        """Return a lower bound of one layer's norm."""
        kind = tuple(weight.shape), layer.geometry, in_shape
        last, known = self._probes.get(layer.name, (None, None))
        if known is None or last != kind:
            known = probe(weight, layer.geometry, in_shape)
            self._probes[layer.name] = kind, known
        direction = known.to(weight).step(weight, self._power_steps)
        scaled, exponent = near_one(weight)
        return math.ldexp(float((scaled * direction).sum()), int(exponent))
