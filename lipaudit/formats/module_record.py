"""ModuleRecord: an nn.Module as data, out of a pickle that nobody ran or out of a live object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch

from lipaudit.formats import parametrizations
from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.rebuilding import Missing
from lipaudit.graph.constant import Constant, computed


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """One module: its class by name, its attributes, its own tensors, its children in order."""

    kind: str
    """Dotted class name: `torch.nn.modules.conv.Conv2d`."""
    name: str
    """Dotted path from the top, "" for the top itself."""
    attributes: Mapping[str, object]
    tensors: Mapping[str, Constant]
    children: Mapping[str, "ModuleRecord"]

    @property
    def title(self) -> str:
        """Return what reports call it."""
        return self.name or self.kind.rpartition(".")[2]

    def integers(self, name: str, rank: int) -> tuple[int, ...] | None:
        """Return an attribute that is one integer or one an axis; None when it is neither."""
        value = self.attributes.get(name)
        if is_size(value):
            return (value,) * rank
        if isinstance(value, (tuple, list)) and len(value) == rank:
            sizes = tuple(size for size in value if is_size(size))
            return sizes if len(sizes) == rank else None
        return None

    def number(self, name: str, default: float) -> float:
        """Return a numeric attribute; one that float64 cannot hold is infinite."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            return default
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a truth value."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, bool) else default


def is_size(value: object) -> TypeGuard[int]:
    """Tell whether an attribute is an integer that torch can hold; a pickle's may be larger."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def from_pickle(record: Record, tensors: Mapping[str, Constant], key: str) -> ModuleRecord:
    """Read the record of a pickled module; `key` is its path in the checkpoint."""
    return _from_pickle(record, dict(tensors), key, "", set())


def _from_pickle(
    record: Record, tensors: Mapping[str, Constant], key: str, name: str, above: set[int]
) -> ModuleRecord:
    state = record.state if isinstance(record.state, dict) else {}
    made_by = _class_of(record)
    own: dict[str, Constant] = {}
    for group in ("_parameters", "_buffers"):
        for field in _entries(state.get(group)):
            full = f"{key}/{_dotted(name, field)}" if key else _dotted(name, field)
            if full in tensors:
                own[field] = tensors[full]
    children = {
        field: _from_pickle(child, tensors, key, _dotted(name, field), {*above, id(record)})
        for field, child in _entries(state.get("_modules")).items()
        if isinstance(child, Record) and id(child) not in above
    }
    return ModuleRecord(
        str(made_by) if isinstance(made_by, Global) else "unknown",
        name,
        {field: v for field, v in state.items() if isinstance(field, str)},
        _effective(own, name),
        children,
    )


def _class_of(record: Record) -> object:
    """Return the class of a pickled object, which old torch keeps beside its source text."""
    made_by = record.made_by
    if record.kind in {"copyreg._reconstructor", "copy_reg._reconstructor"} and record.args:
        made_by = record.args[0]
    if isinstance(made_by, Persistent) and isinstance(made_by.identity, tuple):
        named = [part for part in made_by.identity if isinstance(part, Global)]
        made_by = named[0] if named else made_by
    return made_by


def from_live(module: torch.nn.Module, name: str = "") -> ModuleRecord:
    """Read a live module; its tensors are shared, not copied."""
    own = {
        field: computed(_dotted(name, field), value.detach())
        for group in (module._parameters, module._buffers)
        for field, value in group.items()
        if value is not None
    }
    kind = type(module)
    return ModuleRecord(
        f"{kind.__module__}.{kind.__qualname__}",
        name,
        dict(vars(module)),
        own,
        {field: from_live(child, _dotted(name, field)) for field, child in module.named_children()},
    )


def tensors_of(record: Record, key: str) -> dict[str, Constant]:
    """Return every tensor of a pickled module under the key a state dict would give it."""
    found: dict[str, Constant | Missing] = {}
    _collect(record, key, "", found, set())
    return {name: value for name, value in found.items() if isinstance(value, Constant)}


def missing_of(record: Record, key: str) -> dict[str, Missing]:
    """Return likewise the tensors that the module should have, and whose numbers are not there."""
    found: dict[str, Constant | Missing] = {}
    _collect(record, key, "", found, set())
    return {name: value for name, value in found.items() if isinstance(value, Missing)}


def paths_in(record: Record) -> int:
    """Return how many modules and tensors there are, each as often as paths lead to it.

    A module may stand in several places. One that stands twice in one that stands twice, and so
    on, is a small file of astronomically many.
    """
    return _paths_in(record, {})


def _paths_in(record: Record, known: dict[int, int]) -> int:
    if id(record) in known:
        return known[id(record)]
    known[id(record)] = 0  # a module that holds itself is entered once
    state = record.state if isinstance(record.state, dict) else {}
    own = sum(len(_entries(state.get(group))) for group in ("_parameters", "_buffers"))
    below = sum(
        _paths_in(child, known)
        for child in _entries(state.get("_modules")).values()
        if isinstance(child, Record)
    )
    known[id(record)] = 1 + own + below
    return known[id(record)]


def _collect(
    record: Record, key: str, name: str, found: dict[str, Constant | Missing], above: set[int]
) -> None:
    state = record.state if isinstance(record.state, dict) else {}
    for group in ("_parameters", "_buffers"):
        for field, value in _entries(state.get(group)).items():
            if isinstance(value, (Constant, Missing)):
                full = f"{key}/{_dotted(name, field)}" if key else _dotted(name, field)
                found[full] = value
    for field, child in _entries(state.get("_modules")).items():
        if isinstance(child, Record) and id(child) not in above:
            _collect(child, key, _dotted(name, field), found, {*above, id(record)})


def _entries(value: object) -> dict[str, object]:
    if isinstance(value, Record):
        value = value.items
    return {k: v for k, v in value.items() if isinstance(k, str)} if isinstance(value, dict) else {}


def _dotted(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _effective(own: Mapping[str, Constant], name: str) -> dict[str, Constant]:
    prefix = f"{name}." if name else ""
    whole = parametrizations.effective({prefix + field: c for field, c in own.items()})
    return {key.removeprefix(prefix): constant for key, constant in whole.items()}
