"""Reading: the constants of one layer, read once for all who look at them.

Before a layer is measured its values are hashed for the cache and looked through for NaN. What
was read for these is held until the operator takes it, and no longer: from then on the layer
takes the memory that it would take by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, final

import torch

from lipaudit.graph.constant import Constant
from lipaudit.layers.base import AbstractLinearLayer


@final
class Reading:
    """Holds what is read of one layer's constants, up to so many bytes together."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._is_last = False
        self._constants: dict[int, tuple[Constant, Constant]] = {}
        self._held: dict[int, torch.Tensor] = {}

    def layer(self, layer: AbstractLinearLayer) -> AbstractLinearLayer:
        """Return the layer with constants that are read once."""
        data: Any = layer  # every layer is a dataclass
        parts = {part.name: getattr(data, part.name) for part in fields(data)}
        found = {name: self.of(part) for name, part in parts.items() if isinstance(part, Constant)}
        made: AbstractLinearLayer = replace(data, **found)
        return made

    def constants(self, constants: Iterable[Constant]) -> tuple[Constant, ...]:
        """Return other constants of the same layer likewise."""
        return tuple(map(self.of, constants))

    def of(self, constant: Constant) -> Constant:
        """Return a constant that is read once; the same one for the same one."""
        if id(constant) not in self._constants:
            finer = constant.unrounded
            held = replace(
                constant,
                read=self._once(constant.read),
                unrounded=None if finer is None else self._once(finer),
            )
            # With the original, whose identity must not be given to another one meanwhile.
            self._constants[id(constant)] = constant, held
        return self._constants[id(constant)][1]

    def end(self, layer: AbstractLinearLayer) -> None:
        """Hold only what the layer's operator is about to take, and each until it is taken."""
        self._is_last = True
        taken = {id(weight.unrounded or weight.read) for weight in layer.weights()}
        self._held = {key: values for key, values in self._held.items() if key in taken}

    def _once(self, read: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def held() -> torch.Tensor:
            key = id(held)
            if self._is_last:
                found = self._held.pop(key, None)
                return read() if found is None else found
            if key not in self._held:
                values = read()
                size = values.untyped_storage().nbytes()
                if size > self._room:
                    return values
                self._room -= size
                self._held[key] = values
            return self._held[key]

        return held
