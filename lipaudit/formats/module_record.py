"""ModuleRecord: an nn.Module as data, out of a pickle that nobody ran or out of a live object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch

from lipaudit.formats import hidden, module_attributes, parametrizations
from lipaudit.formats.branch import name_of
from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.rebuilding import Missing
from lipaudit.graph.constant import Constant, computed

_SOURCE = 4
"""Parts of what old torch names a class by: ("module", class, file, text)."""
_RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor")
_GROUPS = ("_parameters", "_buffers", "_modules")
_OBJECTS = ("builtins.object", "__builtin__.object")


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
    change: str = ""
    """What makes it another function than its class, which is known; "" for nothing."""
    was_training: bool = False
    """Whether it was in training mode, and is another function at inference."""

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
        """Return a numeric attribute; one that float64 cannot hold is infinite, others are NaN."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            return math.nan
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
    above = {*above, id(record)}
    children = {
        field: _from_pickle(child, tensors, key, _dotted(name, field), above)
        if isinstance(child, Record) and id(child) not in above
        else _no_module(child, _dotted(name, field))
        for field, child in _entries(state.get("_modules")).items()
    }
    kind = str(made_by) if isinstance(made_by, Global) else "unknown"
    odd = "" if _is_plainly_made(record) else "it is made in a way that is not read"
    return ModuleRecord(
        kind,
        name,
        {field: v for field, v in state.items() if isinstance(field, str)},
        _effective(own, name),
        children,
        odd or module_attributes.change(kind, state, own),
        module_attributes.depends_on_mode(kind, state),
    )


def _no_module(value: object, name: str) -> ModuleRecord:
    """Stand for what is in a module's place and is none, or is one that holds this one."""
    kind = str(value) if isinstance(value, Global) else type(value).__name__
    return ModuleRecord(kind, name, {}, {}, {})


def _is_plainly_made(record: Record) -> bool:
    """Tell whether an object is nothing but its class and its state."""
    args = record.args
    if record.kind in _RECONSTRUCTORS:
        args = () if len(args) == 3 and str(args[1]) in _OBJECTS and args[2] is None else args
    return not (args or record.items or record.elements) and isinstance(record.state, dict)


def _class_of(record: Record) -> object:
    """Return the class of a pickled object, which old torch keeps beside its source text."""
    made_by = record.made_by
    if record.kind in _RECONSTRUCTORS and record.args:
        made_by = record.args[0]
    if isinstance(made_by, Persistent) and isinstance(made_by.identity, tuple):
        named = [part for part in made_by.identity[:_SOURCE] if isinstance(part, Global)]
        made_by = named[0] if named else made_by
    return made_by


def from_live(module: torch.nn.Module, name: str = "") -> ModuleRecord:
    """Read a live module; its tensors are shared, not copied."""
    own = {
        field: computed(_dotted(name, field), value.detach())
        for group in (module._buffers, module._parameters)  # the second goes first in torch
        for field, value in group.items()
        if value is not None
    }
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    # Not named_children, which leaves out a module that stands there a second time.
    children = {
        field: from_live(child, _dotted(name, field))
        if isinstance(child, torch.nn.Module)
        else _no_module(child, _dotted(name, field))
        for field, child in module._modules.items()
    }
    state: dict[str, object] = dict(vars(module))
    return ModuleRecord(
        kind,
        name,
        state,
        own,
        children,
        module_attributes.change(kind, state, own),
        module_attributes.depends_on_mode(kind, state),
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
    slots = {value.slot for value in found.values() if isinstance(value, Constant) and value.slot}
    _collect_hidden(record, _Shelf(key, found, frozenset(slots)), "", set())
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
                found.setdefault(full, value)  # torch looks for a parameter first
    for field, child in _entries(state.get("_modules")).items():
        if isinstance(child, Record) and id(child) not in above:
            _collect(child, key, _dotted(name, field), found, {*above, id(record)})


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Where hidden tensors are noted: the key of the module, and what is known of others."""

    key: str
    found: dict[str, Constant | Missing]
    slots: frozenset[object]
    """Of the tensors that have a name."""

    def note(self, name: str, value: object, seen: set[int]) -> None:
        """Note that tensors without a name are in a value."""
        for tensor in hidden.held(value, seen):
            if not isinstance(tensor, Constant) or tensor.slot not in self.slots:
                full = f"{self.key}/{name}" if self.key else name
                self.found[full] = hidden.missing(value)


def _collect_hidden(record: Record, shelf: _Shelf, name: str, seen: set[int]) -> None:
    """Note what holds tensors and is neither a parameter, nor a buffer, nor a module."""
    seen.add(id(record))
    state = record.state if isinstance(record.state, dict) else {}
    known: set[str] = set()
    for group in _GROUPS:
        whole = state.get(group)
        table = module_attributes.table(whole)
        if table is None:
            shelf.note(_dotted(name, group), whole, seen)
        for field, value in (table or {}).items():
            full = _dotted(name, field if isinstance(field, str) else group)
            is_module = isinstance(value, Record) and isinstance(value.state, dict)
            if not isinstance(field, str):
                shelf.note(full, value, seen)
            elif group == "_modules" and is_module and isinstance(value, Record):
                if id(value) not in seen:
                    _collect_hidden(value, shelf, full, seen)
            elif not isinstance(value, (Constant, Missing)) or full in known:
                shelf.note(full, value, seen)
            known.add(full)
    made = "weight" if module_attributes.remade(state) else ""
    for field, value in state.items():
        if field not in {*_GROUPS, made}:
            shelf.note(_dotted(name, name_of(field)), value, seen)


def _entries(value: object) -> dict[str, object]:
    table = module_attributes.table(value) or {}
    return {k: v for k, v in table.items() if isinstance(k, str)}


def _dotted(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _effective(own: Mapping[str, Constant], name: str) -> dict[str, Constant]:
    prefix = f"{name}." if name else ""
    whole = parametrizations.effective({prefix + field: c for field, c in own.items()})
    return {key.removeprefix(prefix): constant for key, constant in whole.items()}
