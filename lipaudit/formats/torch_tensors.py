"""Tensors in a torch pickle: from the inert record of a rebuild call to a lazy constant.

`Shelf` knows where each storage of a file lies; a `Materializer` walks the pickled value and puts a
`Constant` in the place of every tensor. Everything else is left as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lipaudit.errors import MalformedFile
from lipaudit.formats import hidden, rebuilding, slots, views
from lipaudit.formats.branch import TOP, Branch, Titles
from lipaudit.formats.layouts import Layouts
from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.pickle_machine import parts_of
from lipaudit.formats.rebuilding import NO_DATA, Missing, Role
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
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
_LIMIT = 1 << 63
"""Of sizes, strides and offsets in torch."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of items of one type somewhere in the file."""

    dtype: str
    offset: int
    length: int


Shelf = Callable[[str, str, int], Storage]
"""Find a storage by (dtype, key, number of items claimed)."""


class Materializer:
    """One walk over a pickled value, each shared part visited once."""

    def __init__(
        self, source: Source, shelf: Shelf, *, big_endian: bool = False, has_parts: bool = False
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._big_endian = big_endian
        self._has_parts = has_parts
        self._done: dict[int, object] = {}
        self._keep: list[object] = []
        self._titles = Titles()
        self._seen: set[int] = set()
        self._hidden: dict[str, Missing] = {}
        self._layouts = Layouts(str(source.path))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the tensors that were made."""
        return tuple(
            f"tensors stored as {dtype} with a scale: {count:,}, measured as the numbers they mean"
            for dtype, count in self._layouts.quantized.items()
        )

    @property
    def hidden(self) -> tuple[tuple[str, Missing], ...]:
        """Tensors that hang on others, or on a dictionary, as attributes; by where they are."""
        return tuple(self._hidden.items())

    def storages(self, root: object) -> dict[str, tuple[str, int]]:
        """Return the type and the number of items of every storage that a value refers to."""
        found: dict[str, tuple[str, int]] = {}
        seen: set[int] = set()
        pending = [root]
        while pending:
            value = pending.pop()
            if id(value) in seen or not isinstance(value, (dict, list, tuple, Record, Persistent)):
                continue
            seen.add(id(value))
            pending += parts_of(value)
            identity = value.identity if isinstance(value, Persistent) else None
            if isinstance(identity, tuple) and identity[:1] == ("storage",):
                dtype, key, items = self._identity(identity, "")
                if found.setdefault(key, (dtype, items)) != (dtype, items):
                    raise MalformedFile(
                        f"storage {key} is two things at once",
                        slug="storage-size",
                        path=str(self._source.path),
                    )
        return found

    def walk(self, root: object) -> object:
        """Return the value with constants in the place of tensors.

        Without recursion: the nesting is the file's choice. A container is entered into the
        table before its parts, since pickles may be cyclic, and filled after them.
        """
        pending = [(root, TOP, False)]
        while pending:
            value, branch, is_ready = pending.pop()
            if is_ready:
                self._fill(value, branch)
                continue
            if id(value) in self._done or not _is_container(value):
                continue
            parts = list(self._parts(value, branch))
            self._keep.append(value)
            self._done[id(value)] = value  # what holds nothing needs no copy
            if parts or isinstance(value, Record):
                self._done[id(value)] = self._begun(value)
                pending.append((value, branch, True))
                pending += [(part, step, False) for part, step in reversed(parts)]
        return self._made(root)

    def _made(self, value: object) -> object:
        if not _is_container(value):
            return value
        made = self._done.get(id(value), value)
        if made is None:  # Only lists, dictionaries and objects can be filled after they are held.
            raise MalformedFile(
                "pickle: a tuple or tensor that holds itself",
                slug="pickle",
                path=str(self._source.path),
            )
        return made

    def _parts(self, value: object, branch: Branch) -> Iterator[tuple[object, Branch]]:
        """Yield the containers in a container, with the way to them."""
        if isinstance(value, (list, tuple)):
            yield from ((p, branch.item(at)) for at, p in enumerate(value) if _is_container(p))
        elif isinstance(value, dict):
            yield from _in_dict(value, branch)
        elif isinstance(value, Record):
            role = rebuilding.role(value)
            if role is Role.ORDERED:
                yield from _in_dict(value.items, branch)
            elif role in {Role.WRAPPER, Role.OTHER}:
                yield from ((p, branch) for p in value.args if _is_container(p))
            elif role is Role.OBJECT:
                own = (value.args, value.state, *value.elements)
                yield from ((part, branch) for part in own if _is_container(part))
                yield from _in_dict(value.items, branch)

    def _begun(self, value: object) -> object:
        """Return what stands for a container while its parts are made."""
        if isinstance(value, list):
            return []
        if isinstance(value, Record) and rebuilding.role(value) is Role.OBJECT:
            return Record(value.made_by, ())
        ordered = isinstance(value, Record) and rebuilding.role(value) is Role.ORDERED
        return {} if ordered or isinstance(value, dict) else None

    def _fill(self, value: object, branch: Branch) -> None:
        """Put the parts, which are made by now, into what stands for their container."""
        begun = self._done[id(value)]
        if isinstance(value, tuple):
            self._done[id(value)] = tuple(self._made(part) for part in value)
        elif isinstance(value, list) and isinstance(begun, list):
            begun += [self._made(part) for part in value]
        elif isinstance(begun, dict):
            self._fill_dict(begun, value, branch)
        elif isinstance(value, Record) and isinstance(begun, Record):
            made = self._made(value.args)
            begun.args = made if isinstance(made, tuple) else value.args
            begun.state = self._made(value.state)
            begun.items = {key: self._made(part) for key, part in value.items.items()}
            begun.elements = [self._made(part) for part in value.elements]
            is_module = isinstance(value.state, dict) and "_modules" in value.state
            if is_module and (value.items or value.elements):
                raise self._broken(self._titles.of(branch), "is a module that is written to")
        elif isinstance(value, Record):
            self._done[id(value)] = self._rebuilt(value, branch)

    def _fill_dict(self, begun: dict[object, object], value: object, branch: Branch) -> None:
        entries = value.items if isinstance(value, Record) else value
        if isinstance(entries, dict):
            begun |= {key: self._made(part) for key, part in entries.items()}
        if isinstance(value, Record):
            if value.elements:
                raise self._broken(self._titles.of(branch), "is a dictionary with elements")
            self._hide(value.state, branch)

    def _hide(self, value: object, branch: Branch) -> None:
        """Note the tensors in what is no entry of anything."""
        if any(True for _ in hidden.held(value, self._seen)):
            self._hidden[self._titles.of(branch)] = hidden.missing(value)

    def _rebuilt(self, record: Record, branch: Branch) -> object:
        """Return what a call that rebuilds a tensor stands for."""
        role = rebuilding.role(record)
        for value in rebuilding.attached(record):
            self._hide(value, branch)
        if role is Role.WRAPPER:
            made = self._made(record.args[0]) if record.args else None
            return hidden.missing(record) if made is None or _is_container(made) else made
        if role is Role.DENSE:
            return self._tensor(rebuilding.inner(record), self._titles.of(branch))
        parts = tuple(self._made(part) for part in record.args)
        call = rebuilding.bare(record)
        if call != "_rebuild_qtensor":
            return self._layouts.rebuilt(call, parts, self._titles.of(branch))
        codes = self._tensor(record, self._titles.of(branch))
        return self._layouts.dequantized(codes, (*parts, None, None)[4], self._titles.of(branch))

    def _tensor(self, record: Record, path: str) -> object:
        args = record.args
        if len(args) < 4 or not isinstance(args[0], Persistent):
            raise self._broken(path, "is not rebuilt from a storage")
        dtype, key, items = self._identity(args[0].identity, path)
        storage_type = dtype
        states_type = rebuilding.bare(record) == "_rebuild_tensor_v3"
        if states_type:
            dtype = self._type(args[6] if len(args) > 6 else None, path)
        if dtype not in slots.COMPUTABLE:
            return Missing("dtype", f"dtype {dtype} not supported")
        if _location(args[0].identity) == "meta":
            return NO_DATA
        first, shape, strides = self._window(record, path)
        storage = self._shelf(storage_type, key, items)
        slot = Slot(
            path=self._source.path,
            offset=storage.offset,
            length=storage.length,
            dtype=dtype,
            shape=shape,
            strides=strides,
            first=first,
        )
        part = self._part(args[0].identity, items, path)
        if part is not None:
            if dtype != storage_type:
                raise self._broken(path, "lies in a part of a storage of another type")
            start, length = (count * slots.item_size(dtype) for count in part)
            within = replace(slot, offset=slot.offset + start, length=length)
            slots.check(within, self._source, path)
            slot = replace(slot, first=first + part[0])
        constant = slots.stored(path, slot, self._source)
        if self._big_endian:
            constant = views.big_endian(constant)
        notes = rebuilding.notes(record)
        if notes is None:
            raise self._broken(path, "is to be seen in a way that is no table")
        return views.noted(constant, notes)

    def _window(self, record: Record, path: str) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Read the first item, the sizes and the strides."""
        _, offset, sizes, steps = record.args[:4]
        first, shape, strides = _number(offset), self._sizes(sizes, path), self._sizes(steps, path)
        if first is None:
            raise self._broken(path, "has an offset that is no number")
        if len(shape) != len(strides):
            raise self._broken(path, f"has {len(shape)} sizes and {len(strides)} strides")
        return first, shape, strides

    def _part(self, identity: object, items: int, path: str) -> tuple[int, int] | None:
        """Read (first item, items) of a storage that is a part of another, None for a whole one.

        torch before 0.4 wrote them, in the legacy layout only.
        """
        view = identity[5] if isinstance(identity, tuple) and len(identity) > 5 else None
        if view is None:
            return None
        if not self._has_parts:
            raise self._broken(path, "lies in a part of a storage, as no torch writes any more")
        span = [_number(each) for each in view[1:]] if isinstance(view, tuple) else []
        start, count = span if len(span) == 2 else (None, None)
        if start is None or count is None or not 0 <= start <= start + count <= items:
            raise self._broken(path, "lies in a part of a storage that starts or ends nowhere")
        return start, count

    def _type(self, named: object, path: str) -> str:
        """Return the item type that a tensor states itself."""
        name = named.name if isinstance(named, Global) and named.module == "torch" else ""
        if not slots.is_dtype(name):
            raise self._broken(path, f"has items of unknown type {name or 'that has no name'}")
        return name

    def _sizes(self, value: object, path: str) -> tuple[int, ...]:
        """Return sizes or strides; each must be a whole number that torch can hold.

        A list could be changed after torch has read it.
        """
        if isinstance(value, Record) and value.kind == "torch.Size" and len(value.args) == 1:
            value = value.args[0]
        parts = value if isinstance(value, tuple) else (None,)
        sizes = tuple(size for part in parts if (size := _number(part)) is not None)
        if len(sizes) != len(parts):
            raise self._broken(path, "has a size that is no number")
        if any(abs(size) >= _LIMIT for size in sizes):
            raise self._broken(path, "has a size that overflows")
        return sizes

    def _identity(self, identity: object, path: str) -> tuple[str, str, int]:
        """Read ('storage', type, key, location, items), as torch.save writes it."""
        parts = identity if isinstance(identity, tuple) else ()
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], Global):
            raise self._broken(path, "refers to something that is no storage")
        dtype = _STORAGES.get(parts[1].name) if _is_torchs(parts[1]) else None
        if dtype is None:
            raise self._broken(path, f"has items of unknown type {parts[1]}")
        items = _number(parts[4])
        if items is None or not 0 <= items < _LIMIT:
            raise self._broken(path, "has a storage of no size")
        if not isinstance(parts[2], str):
            raise self._broken(path, "has a storage without a key")
        return dtype, parts[2], items

    def _broken(self, path: str, what: str) -> MalformedFile:
        return MalformedFile(f"tensor {path!r} {what}", slug="tensor", path=str(self._source.path))


def _is_container(value: object) -> bool:
    return isinstance(value, (dict, list, tuple, Record))


def _in_dict(entries: dict[object, object], branch: Branch) -> Iterator[tuple[object, Branch]]:
    yield from ((p, branch.entry(key)) for key, p in entries.items() if _is_container(p))


def _location(identity: object) -> object:
    """Return the device that a storage is to be put on."""
    return identity[3] if isinstance(identity, tuple) and len(identity) > 3 else None


def _is_torchs(name: Global) -> bool:
    return name.module.split(".", 1)[0] == "torch"


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
