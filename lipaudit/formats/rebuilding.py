"""Rebuilding: what the calls in a torch pickle stand for, told by their names alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import torch

from lipaudit.errors import MalformedFile
from lipaudit.formats.pickle_guard import Global, Record
from lipaudit.formats.pickle_machine import ORDERED, REBUILDERS

_DENSE = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_WITH_STATE = "_rebuild_parameter_with_state"
_TYPED = "_rebuild_from_type_v2"
_WRAPPERS = {"_rebuild_parameter", _WITH_STATE}
_PASSING = ("_rebuild_device", "_rebuild_from_type", "_rebuild_xla")
"""Functions that may return the tensor that they are given."""
_PARAMETERS = frozenset({"torch.nn.parameter.Parameter", "torch.nn.Parameter"})
"""The class itself, called as torch before 0.4 wrote it."""
_PLAIN_CLASSES = {"Tensor", "Parameter", "Buffer"}
"""Classes that are a tensor and no more; another's values may mean something else."""
_NOTES = {"_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}
"""Where among the arguments the notes stand."""
_STATE = 3
"""Where the attributes stand among the arguments of the functions that set some."""


class Role(Enum):
    """What becomes of a call."""

    DENSE = auto()
    """A tensor whose items lie in a storage."""
    WRAPPER = auto()
    """A parameter: the tensor that is its first argument."""
    OTHER = auto()
    """A tensor in another layout: sparse, quantized, without data."""
    ORDERED = auto()
    """A dictionary."""
    OBJECT = auto()
    """Anything else. It stays a record."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A tensor that has no values here (meta, sparse, unknown layout), and why."""

    slug: str
    reason: str


NO_DATA = Missing("meta-tensor", "it has no data (meta tensor)")


def role(record: Record) -> Role:
    """Tell what a call stands for."""
    if record.made_by == ORDERED:
        return Role.ORDERED
    if record.kind in _PARAMETERS:
        return Role.WRAPPER
    name = bare(inner(record))
    if record.is_new or not name.startswith("_rebuild"):
        return Role.OBJECT
    if name in _WRAPPERS and record.args:
        return Role.WRAPPER
    return Role.DENSE if name in _DENSE else Role.OTHER


def inner(record: Record) -> Record:
    """Return the call that rebuilds a tensor with attributes of its own, others as they are."""
    if bare(record) != _TYPED or len(record.args) != _STATE + 1:
        return record
    made_by, kind, args = record.args[:_STATE]
    if not isinstance(kind, Global) or kind.name not in _PLAIN_CLASSES:
        return record
    call = Record(made_by, args if isinstance(args, tuple) else ())
    is_torchs = kind.module.split(".", 1)[0] == "torch"
    return call if is_torchs and bare(call) in _DENSE else record


def notes(record: Record) -> dict[object, object] | None:
    """Return what stands beside the storage of a dense tensor: that it is conjugate, negative.

    None if it stands there in a form that torch does not write.
    """
    beside = record.args[_NOTES.get(bare(record), len(record.args)) :]
    if not beside or beside[0] is None:
        return {}
    return beside[0] if isinstance(beside[0], dict) else None


def check(calls: Iterable[Record], path: str) -> None:
    """Raise if a tensor of a pickle may be another one than its call alone makes of it.

    torch obeys: a state or an attribute may put another storage or other values in the place of
    the first, and also do it to a tensor that was made before. `calls` are all of names in torch,
    what they made may be in the checkpoint or not.
    """
    seen: set[int] = set()
    for call in calls:
        problem = _changed(call) or _reached(call)
        for table in _tables(call):
            if id(table) not in seen:  # one may be given to many
                seen.add(id(table))
                problem = problem or _overwritten(table)
        if problem:
            raise MalformedFile(f"a tensor {problem}", slug="tensor", path=path)


def attached(record: Record) -> Iterator[object]:
    """Yield the attributes of its own that a tensor carries."""
    for table in _tables(record):
        if isinstance(table, dict):
            yield table


def _changed(record: Record) -> str:
    """Say what is done to what a name in torch has made."""
    made_by = record.made_by
    if record.items or record.elements:
        return "is written to after it was rebuilt"
    if not isinstance(made_by, Global):
        return ""
    if made_by.module == "torch" and made_by.name.endswith("_"):
        return f"is changed by {made_by.name[:80]}"
    # Parameters of torch before 0.4: (requires_grad, volatile, hooks).
    state = record.state
    is_old = isinstance(state, tuple) and len(state) == 3 and isinstance(state[0], bool)
    if state is None or (is_old and record.kind in _PARAMETERS):
        return ""
    is_tensor = made_by.module in {"torch", "torch.nn.parameter", *REBUILDERS}
    if is_tensor or made_by.name.endswith(("Tensor", "Parameter")):
        return "is given a state after it was rebuilt"
    return ""


def _reached(record: Record) -> str:
    """Say whether attributes are set on what may be a tensor that was there before."""
    made_by = record.args[0] if bare(record) == _TYPED and record.args else None
    is_old = isinstance(made_by, Global) and made_by.name.startswith(_PASSING)
    is_set = any(table is not None and table != {} for table in _tables(record))
    return "is given attributes by way of another one" if is_old and is_set else ""


def _tables(record: Record) -> tuple[object, ...]:
    """Return the tables of attributes that a call sets on a tensor: those of it, of its slots."""
    if bare(record) not in {_WITH_STATE, _TYPED} or len(record.args) <= _STATE:
        return ()
    state = record.args[_STATE]
    return state if isinstance(state, tuple) and len(state) == 2 else (state,)


def _overwritten(table: object) -> str:
    """Say which attribute of a table is one that tensors have themselves, such as `data`."""
    if table is None:
        return ""
    if not isinstance(table, dict):
        return "has attributes that are no table"
    for key in table:
        if not isinstance(key, str) or hasattr(torch.nn.Parameter, key):
            return f"has its {str(key)[:80] if isinstance(key, str) else 'values'} overwritten"
    return ""


def bare(record: Record) -> str:
    """Return the name of the function of torch that would rebuild a tensor, "" for all others."""
    made_by = record.made_by
    return made_by.name if isinstance(made_by, Global) and made_by.module in REBUILDERS else ""
