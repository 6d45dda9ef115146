"""Tensors in a torch pickle: from the inert record of a rebuild call to a lazy constant.

`Shelf` knows where each storage of a file lies; `materialize` walks the pickled value and puts a
`Constant` in the place of every tensor. Everything else is left as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lipaudit.errors import MalformedFile
from lipaudit.formats import slots
from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Slot

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}
_DENSE = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_WRAPPERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of items of one type somewhere in the file."""

    dtype: str
    offset: int
    length: int


Shelf = Callable[[str, str, int], Storage]
"""Find a storage by (dtype, key, number of items claimed)."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A tensor that has no values here (meta, sparse, unknown layout), and why."""

    slug: str
    reason: str


class Materializer:
    """One walk over a pickled value, each shared part visited once."""

    def __init__(self, source: Source, shelf: Shelf) -> None:
        self._source = source
        self._shelf = shelf
        self._done: dict[int, object] = {}
        self._keep: list[object] = []

    def walk(self, value: object, path: str = "") -> object:
        """Return the value with constants in the place of tensors, named by their path."""
        if not isinstance(value, (dict, list, tuple, Record)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._keep.append(value)
        made = self._walk(value, path)
        self._done[id(value)] = made
        return made

    def _walk(self, value: object, path: str) -> object:
        if isinstance(value, dict):
            return {key: self.walk(part, _join(path, key)) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            parts = [self.walk(part, _join(path, at)) for at, part in enumerate(value)]
            return parts if isinstance(value, list) else tuple(parts)
        if not isinstance(value, Record):
            return value
        name = value.made_by.name if isinstance(value.made_by, Global) else ""
        if name in _WRAPPERS and value.args:
            return self.walk(value.args[0], path)
        if name in _DENSE:
            return self._tensor(value.args, path)
        if name.startswith("_rebuild"):
            return _unreadable(name)
        if value.kind == "collections.OrderedDict":
            entries = _entries(value)
            return {key: self.walk(part, _join(path, key)) for key, part in entries.items()}
        return self._record(value, path)

    def _record(self, record: Record, path: str) -> Record:
        # The record is entered into the table before its parts: pickles may be cyclic.
        made = Record(record.made_by, ())
        self._done[id(record)] = made
        made.args = tuple(self.walk(part, _join(path, at)) for at, part in enumerate(record.args))
        made.state = self.walk(record.state, path)
        made.items = {key: self.walk(v, _join(path, key)) for key, v in record.items.items()}
        made.elements = [self.walk(v, _join(path, at)) for at, v in enumerate(record.elements)]
        return made

    def _tensor(self, args: tuple[object, ...], path: str) -> object:
        if len(args) < 4 or not isinstance(args[0], Persistent):
            raise self._broken(path, "is not rebuilt from a storage")
        dtype, key, items = self._identity(args[0].identity, path)
        if len(args) > 6 and isinstance(args[6], Global):  # v3 states the type itself
            dtype = args[6].name
        first, shape, strides = args[1], _sizes(args[2]), _sizes(args[3])
        if not isinstance(first, int) or shape is None or strides is None:
            raise self._broken(path, "has a size that is no number")
        if len(shape) != len(strides):
            raise self._broken(path, f"has {len(shape)} sizes and {len(strides)} strides")
        storage = self._shelf(dtype, key, items)
        slot = Slot(
            path=self._source.path,
            offset=storage.offset,
            length=storage.length,
            dtype=dtype,
            shape=shape,
            strides=strides,
            first=first,
        )
        return slots.stored(path, slot, self._source)

    def _identity(self, identity: object, path: str) -> tuple[str, str, int]:
        """Read ('storage', type, key, location, items), as torch.save writes it."""
        parts = identity if isinstance(identity, tuple) else ()
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], Global):
            raise self._broken(path, "refers to something that is no storage")
        dtype = _STORAGES.get(parts[1].name)
        if dtype is None:
            raise self._broken(path, f"has items of unknown type {parts[1].name}")
        if not isinstance(parts[4], int) or parts[4] < 0:
            raise self._broken(path, "has a storage of no size")
        return dtype, str(parts[2]), parts[4]

    def _broken(self, path: str, what: str) -> MalformedFile:
        return MalformedFile(f"tensor {path!r} {what}", slug="tensor", path=str(self._source.path))


def _unreadable(name: str) -> Missing:
    """Say why a tensor that torch rebuilds in another way has no values here."""
    if "meta" in name:
        return Missing("meta-tensor", "it has no data (meta tensor)")
    layout = next((word for word in ("sparse", "nested", "qtensor") if word in name), name)
    return Missing("tensor-layout", f"{layout} tensors are not read; save it dense in a real type")


def _entries(ordered: Record) -> dict[object, object]:
    """Return the entries of an OrderedDict: set one by one, or by Python 2 as a list of pairs."""
    pairs = ordered.args[0] if ordered.args and isinstance(ordered.args[0], (list, tuple)) else ()
    given: dict[object, object] = {
        pair[0]: pair[1]
        for pair in pairs
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], (str, int))
    }
    return {**given, **ordered.items}


def _join(path: str, key: object) -> str:
    text = key if isinstance(key, str) else str(key)
    return f"{path}/{text}" if path else text


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, Record) and value.kind == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, (tuple, list)):
        return None
    sizes = tuple(size for size in value if isinstance(size, int) and not isinstance(size, bool))
    return sizes if len(sizes) == len(value) else None
