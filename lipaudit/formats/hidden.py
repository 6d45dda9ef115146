"""Hidden tensors: those that a checkpoint holds where no name leads to them.

A weight in an object that lipaudit keeps as data would be in no report, though the program that
loads the file may well use it.
"""

from collections.abc import Iterator

from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.pickle_machine import parts_of
from lipaudit.formats.rebuilding import Missing
from lipaudit.graph.constant import Constant

_PLAIN = frozenset({"Size", "device"})
"""What torch itself calls in a checkpoint and is no tensor."""
_PARAMETERS = "torch.nn.parameter"
_ARRAYS = frozenset({"_reconstruct", "_frombuffer", "ndarray"})
"""What numpy has made for an array."""
_COUNTS = "biu"
"""The first letters of numpy's types of truth values and integers."""
_SHOWN = 80


def held(value: object, seen: set[int]) -> Iterator[Constant | Missing | None]:
    """Yield the tensors in a value, None for one that is neither read nor known.

    `seen` are the containers that were looked into before: no two calls report the same.
    """
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, (Constant, Missing)):
            yield part
        elif isinstance(part, (dict, list, tuple, Record, Persistent)) and id(part) not in seen:
            seen.add(id(part))
            if is_unread_tensor(part):
                yield None
            pending += parts_of(part)
            pending += (key for key in _keys(part) if isinstance(key, Record))


def is_unread_tensor(value: object) -> bool:
    """Tell whether it is a storage, or made by what makes tensors in torch, or arrays in numpy."""
    if isinstance(value, Persistent):
        identity = value.identity
        return isinstance(identity, tuple) and identity[:1] == ("storage",)
    if not isinstance(value, Record) or not isinstance(value.made_by, Global):
        return False
    module, name = value.made_by.module, value.made_by.name
    if module.partition(".")[0] == "numpy":
        return name in _ARRAYS and not _is_list_of_counts(value)
    if module == "torch":
        return name not in _PLAIN
    is_class = name.endswith("Tensor") or module == _PARAMETERS
    return module.startswith("torch.") and is_class


def _is_list_of_counts(array: Record) -> bool:
    """Tell whether an array is a row of integers: the state of a random generator is one."""
    state = array.state if isinstance(array.state, tuple) else ()
    if len(state) != 5:  # (version, shape, type, order, bytes), numpy's ndarray.__reduce__
        return False
    _, shape, kind, *_ = state
    code = kind.args[0] if isinstance(kind, Record) and kind.args else None
    is_row = isinstance(shape, tuple) and len(shape) < 2
    return is_row and isinstance(code, str) and code[:1] in _COUNTS


def missing(value: object) -> Missing:
    """Return why the tensors in an object have no numbers."""
    kind = (value.kind if isinstance(value, Record) else "") or type(value).__name__.lower()
    what = kind if len(kind) <= _SHOWN else f"{kind[:_SHOWN]}..."
    reason = f"it holds tensors in a way that is not read ({what})"
    return Missing(slug="hidden-tensor", reason=reason)


def _keys(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value
    elif isinstance(value, Record):
        yield from value.items
