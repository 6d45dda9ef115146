"""Rebuilding: what the calls in a torch pickle stand for, told by their names alone."""

from dataclasses import dataclass
from enum import Enum, auto

from lipaudit.formats.pickle_guard import Global, Record

_DENSE = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_WRAPPERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
_PLAIN_CLASSES = {"Tensor", "Parameter", "Buffer"}
"""Classes that are a tensor and no more; another's values may mean something else."""
_HOMES = frozenset({"torch._utils", "torch._tensor"})
"""Where torch keeps the functions that rebuild tensors; one of that name elsewhere is no tensor."""


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


def role(record: Record) -> Role:
    """Tell what a call stands for."""
    if record.kind == "collections.OrderedDict":
        return Role.ORDERED
    name = bare(inner(record))
    if name in _WRAPPERS and record.args:
        return Role.WRAPPER
    if name in _DENSE:
        return Role.DENSE
    return Role.OTHER if name.startswith("_rebuild") else Role.OBJECT


def inner(record: Record) -> Record:
    """Return the call that rebuilds a tensor with attributes of its own, others as they are."""
    if bare(record) != "_rebuild_from_type_v2" or len(record.args) < 3:
        return record
    made_by, kind, args = record.args[:3]
    if not isinstance(kind, Global) or kind.name not in _PLAIN_CLASSES:
        return record
    call = Record(made_by, args if isinstance(args, tuple) else ())
    is_torchs = kind.module.split(".", 1)[0] == "torch"
    return call if is_torchs and bare(call) in _DENSE else record


def notes(record: Record) -> dict[object, object]:
    """Return what stands beside the storage of a dense tensor: that it is conjugate, negative."""
    place = {"_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}.get(bare(record), len(record.args))
    found: dict[object, object] = {}
    for each in record.args[place:]:
        found |= each if isinstance(each, dict) else {}
    return found


def bare(record: Record) -> str:
    """Return the name of the function of torch that would rebuild a tensor, "" for all others."""
    made_by = record.made_by
    return made_by.name if isinstance(made_by, Global) and made_by.module in _HOMES else ""
