"""The registry of layer kinds: operation name -> the class that gives it meaning.

`layer` is the one place a kind is announced; readers, the README's table and the contract
tests all look here. A second claim on a name is a mistake and fails at import.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from lipaudit.graph.node import ONNX_DOMAIN
from lipaudit.layers.base import AbstractLayer, Examples

Layer = TypeVar("Layer", bound=AbstractLayer)


@dataclass(frozen=True, slots=True)
class Kind:
    """One registered operation."""

    op: str
    domain: str
    layer: type[AbstractLayer]
    summary: str
    """One phrase for the README's table: what its Lipschitz constant is."""
    examples: Callable[[], Examples]
    module: str
    """Class in torch.nn that is exactly this operation without attributes; "" for none."""
    aten: str
    """torch operator (aten) that is exactly this operation on one input; "" for none."""


_kinds: dict[tuple[str, str], Kind] = {}
KINDS: Mapping[tuple[str, str], Kind] = MappingProxyType(_kinds)
"""(domain, op) -> Kind."""


def layer(
    *ops: str,
    summary: str,
    examples: Callable[[], Examples],
    domain: str = ONNX_DOMAIN,
    module: str = "",
    aten: str = "",
) -> Callable[[type[Layer]], type[Layer]]:
    """Register a class as the meaning of one or more operations."""

    def register(cls: type[Layer]) -> type[Layer]:
        for op in ops:
            if (domain, op) in _kinds:
                raise ValueError(f"{op} has a meaning already: {_kinds[domain, op].layer}")
            _kinds[domain, op] = Kind(op, domain, cls, summary, examples, module, aten)
        return cls

    return register


def find(op: str, domain: str) -> Kind | None:
    """Return the kind of an operation, None when lipaudit does not know it."""
    return _kinds.get((domain, op))


def all_kinds() -> Iterator[Kind]:
    """Iterate over every registered kind by name."""
    yield from sorted(_kinds.values(), key=lambda kind: (kind.domain, kind.op))
