"""Protobufs: ONNX messages taken apart, changed field by field, and put together again."""

from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped] # has no stubs
from google.protobuf.message import EncodeError, Message  # type: ignore[import-untyped] # the same

from lipaudit.formats.onnx_wire import varint
from tests.fuzz.case import Case
from tests.fuzz.corpus import good
from tests.fuzz.mutations import edge, mutated

_KINDS = ("onnx", "onnx", "onnx-function", "onnx-external")
_TEXTS = (
    "", "x", "y", "w", "k", "model.bin", "../model.bin", "/etc/passwd", "model.onnx", "\x1b[31m",
    "Conv", "Gemm", "Loop", "Scan", "If", "Constant", "Identity", "Block", "com.acme", "ai.onnx.ml",
    "location", "offset", "length", "checksum", "-5", "abc", "99999999999999999999", "1", "0",
    "axis", "perm", "value", "BatchNormalization", "LSTM", "GRU", "RNN", "Reshape", "Transpose",
    "Concat", "Slice", "Gather", "Expand", "Tile", "Pad", "Resize", "MaxPool", "AveragePool",
    "ConvTranspose", "QuantizeLinear", "DequantizeLinear", "Softmax", "LayerNormalization",
    "ConstantOfShape", "Range", "Shape", "Split", "Squeeze", "Unsqueeze", "Flatten", "Einsum",
    "ReduceMean", "Upsample", "ImageScaler", "Div", "Pow", "Where", "Clip", "MatMul", "Cast",
    "MatMulInteger", "ConvInteger", "QLinearConv", "GatherND", "ScatterND", "OneHot", "TopK",
    "auto_pad", "SAME_UPPER", "VALID", "strides", "group", "dilations", "pads", "kernel_shape",
)  # fmt: skip
_MOST_NODES = 200


@dataclass(slots=True)
class Piece:
    """One field of a message on the wire: its number, its type, and bytes or inner pieces."""

    number: int
    wire: int
    value: int = 0
    data: bytes = b""
    inner: "list[Piece] | None" = field(default=None)
    name: str = ""


def pieces(rng: Random) -> Case:
    """Return an ONNX file some fields of which are gone, twice there, or of another type."""
    case = good()[rng.choice(_KINDS)]
    tree = decoded(case.files["model.onnx"], onnx.ModelProto.DESCRIPTOR)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, tree)
    return case.changed("model.onnx", encoded(tree))


def reflected(rng: Random) -> Case:
    """Return an ONNX file that parses, some values of which are others."""
    case = good()[rng.choice(_KINDS)]
    model = onnx.ModelProto.FromString(case.files["model.onnx"])
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        found = _messages(model)
        _set(rng, rng.choice(found), found)
    try:
        data = model.SerializeToString()
    except EncodeError:
        data = b""
    return case.changed("model.onnx", data[: 1 << 18])


def external(rng: Random) -> Case:
    """Return an ONNX file beside whose data something is wrong."""
    case = good()["onnx-external"]
    model = onnx.ModelProto.FromString(case.files["model.onnx"])
    tensors = [t for t in model.graph.initializer if len(t.external_data)]
    for _ in range(rng.choice((1, 2))):
        entry = rng.choice(list(rng.choice(tensors).external_data))
        way = rng.randrange(3)
        if way == 0:
            entry.key = rng.choice(_TEXTS)
        elif way == 1:
            entry.value = rng.choice((*_TEXTS, str(edge(rng)), "x\0y", "a" * 5000, "./model.bin"))
        else:
            rng.choice(tensors).external_data.add(key=entry.key, value=rng.choice(_TEXTS))
    changed = case.changed("model.onnx", model.SerializeToString())
    if rng.random() < 0.3:
        changed = changed.changed("model.bin", mutated(rng, case.files["model.bin"]))
    return changed


def decoded(data: bytes, described: Descriptor) -> list[Piece]:
    """Take a good message apart, as deep as its description goes."""
    found: list[Piece] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        said = described.fields_by_number.get(number)
        name = said.name if said is not None else ""
        if wire == 0:
            value, at = _varint(data, at)
            found.append(Piece(number, wire, value=value, name=name))
            continue
        if wire == 2:
            length, at = _varint(data, at)
        else:
            length = 8 if wire == 1 else 4
        part = data[at : at + length]
        at += length
        inner = None
        if wire == 2 and said is not None and said.message_type is not None:
            inner = decoded(part, said.message_type)
        found.append(Piece(number, wire, data=part, inner=inner, name=name))
    return found


def encoded(tree: list[Piece]) -> bytes:
    """Put the pieces together, with lengths that are right."""
    out = bytearray()
    for piece in tree:
        out += varint((piece.number << 3 | piece.wire) & (1 << 64) - 1)
        if piece.wire == 0:
            out += varint(piece.value & (1 << 64) - 1)
        elif piece.wire in {1, 5}:
            out += piece.data
        else:
            data = encoded(piece.inner) if piece.inner is not None else piece.data
            out += varint(len(data)) + data
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7


def _change(rng: Random, tree: list[Piece]) -> None:
    """Change one field somewhere in the tree, or the fields of one message."""
    lists = _lists(tree)
    chosen = rng.choice([one for one in lists if one] or [tree])
    if not chosen:
        return
    at = rng.randrange(len(chosen))
    way = rng.randrange(9)
    if way == 0:
        del chosen[at]
    elif way == 1:
        chosen[at:at] = [deepcopy(chosen[at]) for _ in range(rng.choice((1, 1, 2, 100)))]
    elif way == 2:
        other = deepcopy(rng.choice(rng.choice(lists) or chosen))
        chosen.insert(rng.randrange(len(chosen) + 1), other)
    elif way == 3:
        rng.shuffle(chosen)
    else:
        _change_field(rng, chosen[at], way)


def _change_field(rng: Random, piece: Piece, way: int) -> None:
    if way == 4:
        piece.number = rng.choice((piece.number + 1, rng.randrange(1, 30), 0, (1 << 29) - 1))
    elif way == 5:
        _wire_type(rng, piece)
    elif piece.wire == 0:
        piece.value = edge(rng) if rng.random() < 0.5 else rng.randrange(60)
    elif piece.inner is not None and way == 6:
        piece.data, piece.inner = mutated(rng, encoded(piece.inner)), None
    elif piece.inner is None:
        text = rng.choice(_TEXTS).encode()
        piece.data = text if rng.random() < 0.5 else mutated(rng, piece.data or b"\0")
        if piece.wire != 2:
            piece.data = piece.data[: 8 if piece.wire == 1 else 4]


def _wire_type(rng: Random, piece: Piece) -> None:
    piece.wire = rng.choice((0, 1, 2, 3, 4, 5, 6, 7))
    if piece.wire in {3, 4, 6, 7}:
        piece.data, piece.inner = b"", None
    elif piece.wire in {1, 5}:
        piece.data = rng.randbytes(8 if piece.wire == 1 else 4)


def _lists(tree: list[Piece]) -> list[list[Piece]]:
    found, todo, seen = [tree], [tree], {id(tree)}
    while todo:
        for piece in todo.pop():
            if piece.inner is not None and id(piece.inner) not in seen:
                seen.add(id(piece.inner))
                found.append(piece.inner)
                todo.append(piece.inner)
    return found


def _messages(top: Message) -> list[Message]:
    """Return a message and all within it."""
    found = [top]
    for message in found:
        for said, value in message.ListFields():
            if said.message_type is not None:
                found += list(value) if said.is_repeated else [value]
        if len(found) > 20 * _MOST_NODES:
            break
    return found


def _set(rng: Random, message: Message, found: list[Message]) -> None:
    """Set, clear or extend one field of a message."""
    there = [said for said, _ in message.ListFields()]
    said = rng.choice(there or list(message.DESCRIPTOR.fields))
    if rng.random() < 0.25:
        said = rng.choice(list(message.DESCRIPTOR.fields))
    if rng.random() < 0.15:
        message.ClearField(said.name)
    elif said.message_type is not None:
        _set_message(rng, message, said, found)
    elif said.is_repeated:
        held = getattr(message, said.name)
        value = _value(rng, said)
        if len(held) and rng.random() < 0.7:
            held[rng.randrange(len(held))] = value
        else:
            held.extend([value] * rng.choice((1, 1, 2, 70)))
        if len(held) and rng.random() < 0.15:
            del held[rng.randrange(len(held)) :]
    else:
        setattr(message, said.name, _value(rng, said))


def _set_message(rng: Random, message: Message, said: Any, found: list[Message]) -> None:
    """Put a message of the same kind from elsewhere into a field, or add an empty one."""
    same = [one for one in found if one.DESCRIPTOR is said.message_type]
    source = rng.choice(same) if same and rng.random() < 0.8 else None
    if said.is_repeated:
        held = getattr(message, said.name)
        if len(held) > _MOST_NODES:
            return
        if source is None:
            held.add()
        elif len(held) and rng.random() < 0.3:
            del held[rng.randrange(len(held))]
        else:
            copied = type(source).FromString(source.SerializePartialToString())
            held.add().CopyFrom(copied)
    elif source is not None:
        copied = type(source).FromString(source.SerializePartialToString())
        getattr(message, said.name).CopyFrom(copied)
    else:
        getattr(message, said.name).SetInParent()


def _value(rng: Random, said: Any) -> Any:
    """Return a value of a field's type."""
    kind = said.cpp_type
    if said.type == said.TYPE_BYTES:
        return rng.choice((b"", rng.randbytes(4), rng.randbytes(32), b"SAME_LOWER", b"\xff"))
    if kind == said.CPPTYPE_STRING:
        return rng.choice(_TEXTS)
    if kind in {said.CPPTYPE_FLOAT, said.CPPTYPE_DOUBLE}:
        return rng.choice((0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("inf"), float("nan"), 1e-5))
    if kind == said.CPPTYPE_ENUM:
        return rng.choice([value.number for value in said.enum_type.values])
    bits = 64 if kind in {said.CPPTYPE_INT64, said.CPPTYPE_UINT64} else 32
    value = rng.choice((edge(rng), rng.randrange(-3, 30))) & ((1 << bits) - 1)
    signed = kind in {said.CPPTYPE_INT32, said.CPPTYPE_INT64}
    return value - (1 << bits) if signed and value >> (bits - 1) else value
