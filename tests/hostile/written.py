"""Files written by code: the small good models that the bad ones are made from, and how."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Build = Callable[[Path], Path]
VALUES = struct.pack("<4f", 3.0, 0.0, 0.0, 1.0)
"""A 2x2 weight of norm 3."""


def file(name: str, data: bytes) -> Build:
    """Return what writes one file with these bytes."""

    def build(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return build


def sparse(name: str, head: bytes, size: int) -> Build:
    """Return what writes a file of so many bytes, zeros behind its head, that takes no room."""

    def build(folder: Path) -> Path:
        path = folder / name
        with path.open("wb") as out:
            out.write(head)
            out.truncate(size)
        return path

    return build


def entry(dtype: str = "F32", shape: Any = (2, 2), span: Any = (0, 16)) -> dict[str, Any]:
    """Return a tensor's entry in a safetensors header, of any values."""
    stated = [list(part) if isinstance(part, tuple) else part for part in (shape, span)]
    return {"dtype": dtype, "shape": stated[0], "data_offsets": stated[1]}


def packed(header: object, data: bytes = VALUES) -> bytes:
    """Return a safetensors file; a header of bytes or text is taken as it stands."""
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + data


def tensors(values: Mapping[str, bytes] | None = None) -> bytes:
    """Return a good safetensors file of 2x2 weights, by default of one layer `fc`."""
    stored = values or {"fc.weight": VALUES}
    header, start = {}, 0
    for name, data in stored.items():
        header[name] = entry(span=(start, start + len(data)))
        start += len(data)
    return packed(header, b"".join(stored.values()))


def torch_file(name: str) -> Build:
    """Return what writes a good checkpoint with torch, under any name."""

    def build(folder: Path) -> Path:
        path = folder / name
        weight = torch.frombuffer(bytearray(VALUES), dtype=torch.float32).reshape(2, 2)
        torch.save({"fc.weight": weight}, path)
        return path

    return build
