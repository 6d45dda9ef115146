"""safetensors: a JSON header that says where each tensor lies, and the tensors' bytes.

The header is checked here and strictly: what the library refuses is refused with the tensor's
name, and what it accepts although a reader could take it in two ways (a key given twice) is
refused as well. Opening the file with the library after that could add no finding.
Format: https://github.com/huggingface/safetensors#format
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from lipaudit import strict_json
from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats import edits, slots
from lipaudit.formats.base import AbstractFormat, ChangedFile, Patch, register
from lipaudit.formats.source import Source
from lipaudit.formats.state_dict import assemble_flat
from lipaudit.graph.constant import Constant, Shape, Slot
from lipaudit.graph.model import Model

_PREFIX = 8
_MAX_RANK = 64  # torch's own limit
_MAX_ITEMS = 1 << 62
_MAX_TENSORS = 100_000
"""Of one file. The largest models have as many, in a hundred files."""
_METADATA = "__metadata__"

_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
# Types that torch has no numbers for: listed, never read.
_UNREADABLE_BITS: Mapping[str, int] = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


@register
class SafetensorsFormat(AbstractFormat):
    """One .safetensors file; a model of several is read through its index."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def recognizes(self, source: Source) -> bool:
        """See `AbstractFormat.recognizes`: the header is a JSON object after its length.

        With this suffix a plausible length is enough: the error then says what is wrong.
        """
        if source.head(_PREFIX + 1)[_PREFIX:] == b"{":
            return True
        length = int.from_bytes(source.head(_PREFIX), "little")
        return source.path.suffix == ".safetensors" and length <= source.size

    def read(self, source: Source) -> Model:
        """See `AbstractFormat.read`."""
        return assemble_flat(
            tensors(source),
            path=str(source.path),
            format=self.name,
            files=(source.path,),
            digest=source.digest,
        )

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """See `AbstractFormat.changed`."""
        del output
        found = edits.by_file(model, patch)
        return tuple(ChangedFile(path, "", found[path]) for path in model.files)


def tensors(source: Source) -> dict[str, Constant]:
    """Return the lazy constants of a file by name, in the order of the header."""
    header, start = _header(source)
    size = source.size - start
    if len(header) > _MAX_TENSORS:
        raise UnsafeFile(
            f"header of {len(header):,} tensors, more than {_MAX_TENSORS:,}",
            slug="safetensors-header",
            path=str(source.path),
        )
    places = {name: _Place(name, entry, source) for name, entry in header.items()}
    _check_tiling(places.values(), size, source)
    return {name: place.constant(start) for name, place in places.items()}


def _header(source: Source) -> tuple[dict[str, Any], int]:
    """Return the entries of the header without the metadata, and where the data starts."""
    path = str(source.path)
    length = int.from_bytes(source.head(_PREFIX), "little")
    if source.size < _PREFIX or length > source.size - _PREFIX:
        raise MalformedFile(
            f"header claims {length:,} bytes, file has {source.size:,}",
            slug="safetensors-header",
            path=path,
        )
    if length > strict_json.MAX_BYTES:
        raise UnsafeFile(
            f"header of {length:,} bytes exceeds the limit {strict_json.MAX_BYTES:,}",
            slug="safetensors-header",
            path=path,
        )
    text = source.read(_PREFIX, length)
    header = strict_json.parse(text, "header", path=path)
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise MalformedFile(
            "header is no JSON object that begins with {", slug="safetensors-header", path=path
        )
    metadata = header.pop(_METADATA, None)
    if metadata is None:  # null, which the library reads as well
        return header, _PREFIX + length
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise MalformedFile(
            f"{_METADATA} is no table of texts", slug="safetensors-header", path=path
        )
    return header, _PREFIX + length


class _Place:
    """One entry of the header, checked by itself."""

    def __init__(self, name: str, entry: Any, source: Source) -> None:
        self.name = name
        self._source = source
        said = entry if isinstance(entry, dict) else {}
        dtype = said.get("dtype")
        if not isinstance(dtype, str) or not (dtype in _DTYPES or dtype in _UNREADABLE_BITS):
            raise self._malformed(f"unknown dtype {str(dtype)[:40]!r}")
        self._dtype = dtype
        self._shape = self._sizes(said.get("shape"), "shape")
        span = self._sizes(said.get("data_offsets"), "data_offsets")
        if len(span) != 2:
            raise self._malformed("data_offsets are not two numbers")
        self.begin, self.end = span
        self._check_size()

    def constant(self, start: int) -> Constant:
        """Return the lazy constant; the file's data start there."""
        torch_name = _DTYPES.get(self._dtype)
        if torch_name is None:
            return Constant(
                self.name, self._shape, self._dtype, _unreadable(self._dtype), (self.name,)
            )
        offset, length = start + self.begin, self.end - self.begin
        slot = Slot(
            self._source.path,
            offset,
            length,
            torch_name,
            self._shape,
            slots.contiguous(self._shape),
        )
        return slots.stored(self.name, slot, self._source)

    def _check_size(self) -> None:
        if len(self._shape) > _MAX_RANK:
            raise self._malformed(f"has {len(self._shape):,} dimensions")
        if slots.items(tuple(size or 1 for size in self._shape)) > _MAX_ITEMS:
            raise self._malformed(f"size of shape {list(self._shape)} overflows")
        bits = _UNREADABLE_BITS.get(self._dtype) or 8 * slots.item_size(_DTYPES[self._dtype])
        needed = slots.items(self._shape) * bits
        if needed % 8 or self.end - self.begin != needed // 8:
            raise self._malformed(
                f"{self._dtype} {list(self._shape)} needs {needed / 8:,.16g} bytes, "
                f"has {self.end - self.begin:,}"
            )

    def _sizes(self, value: Any, what: str) -> Shape:
        if not isinstance(value, list) or any(type(size) is not int for size in value):
            raise self._malformed(f"{what} is no list of integers")
        if any(size < 0 for size in value):
            raise self._malformed(f"{what} has a negative number: {value}")
        return tuple(value)

    def _malformed(self, cause: str) -> MalformedFile:
        return MalformedFile(
            f"tensor {self.name!r}: {cause}",
            slug="safetensors-tensor",
            path=str(self._source.path),
        )


def _check_tiling(places: Iterable[_Place], size: int, source: Source) -> None:
    """Raise unless the tensors fill the data from end to end, none over another."""
    end, last = 0, ""
    cause = ""
    for place in sorted(places, key=lambda place: (place.begin, place.end)):
        if place.begin < end:
            cause = f"tensor {place.name!r} overlaps {last!r}"
        elif place.begin > end:
            cause = f"{place.begin - end:,} unused bytes before tensor {place.name!r}"
        elif place.end > size:
            cause = f"data cut at byte {size:,}, tensor {place.name!r} ends at {place.end:,}"
        if cause:
            break
        end, last = place.end, place.name
    if not cause and end < size:
        cause = f"{size - end:,} unused bytes at the end"
    if cause:
        raise MalformedFile(cause, slug="safetensors-layout", path=str(source.path))


def _unreadable(dtype: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        raise TypeError(f"dtype {dtype} not supported")

    return read
