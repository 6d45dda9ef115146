"""Torch files of n things: opcodes, names, arguments that many calls share."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.hostile import legacy_torch
from tests.hostile.growth import Growth
from tests.hostile.pickling import (
    FOUR,
    Call,
    Name,
    Raw,
    archive,
    opcodes,
    storage,
    tensor,
)

_SAME_HASH = (1 << 61) - 1
"""CPython's modulus of integer hashes: its multiples all have the hash 0."""
_ONE = opcodes(tensor())


def _kept(at: int) -> bytes:
    """Return the opcode that keeps the top of the stack, under a number."""
    return b"r" + struct.pack("<I", at)


def _again(at: int) -> bytes:
    return b"j" + struct.pack("<I", at)


def _text(text: str) -> bytes:
    return opcodes(text)


def _pickle(code: bytes) -> bytes:
    return b"\x80\x02" + code + b"."


def _file(name: str, made: Callable[[int], bytes], count: int, *, data: int = 16) -> Growth:
    """Return the growth of a pickle; its one storage takes that many bytes, or as many an item."""

    def build(folder: Path, many: int) -> Path:
        held = FOUR * (data // 16) if data >= 0 else bytes(-data * many)
        return archive(folder, _pickle(made(many)), {"0": held, "1": b""})

    return Growth(f"pickle-{name}", build, count)


def _memo_lines(count: int) -> bytes:
    return b"N" + b"".join(b"p%d\n" % (at * _SAME_HASH) for at in range(1, count + 1))


def _memo_numbers(count: int) -> bytes:
    return b"N" + b"".join(_kept(at) for at in range(count)) + b"0" + _one_entry()


def _one_entry() -> bytes:
    return b"}" + _text("fc.weight") + _ONE + b"s"


def _pairs(count: int) -> bytes:
    pairs = [[at * _SAME_HASH, None] for at in range(1, count + 1)]
    return opcodes(Call(Name("collections", "OrderedDict"), (pairs,)))


def _shared_arguments(count: int) -> bytes:
    """Return n calls with the same tuple of n arguments."""
    shared = b"(" + b"N" * count + b"t" + _kept(0) + b"0"
    call = b"cm\nf\n" + _kept(1) + b"0"
    return shared + call + b"(" + (_again(1) + _again(0) + b"R") * count + b"t"


def _entries(count: int, value: Callable[[int], bytes]) -> bytes:
    """Return a dictionary of n entries."""
    return b"}(" + b"".join(_text(f"l{at}.w") + value(at) for at in range(count)) + b"u"


def _shared(count: int, made: object, calls: Callable[[bytes], bytes]) -> bytes:
    """Return n entries, each a call that is given the same object out of the memo."""
    return opcodes(made) + _kept(0) + b"0" + _entries(count, lambda _: calls(_again(0)))


def _metadata(count: int) -> bytes:
    notes = {f"k{at}": None for at in range(count)}
    return _shared(count, notes, lambda same: opcodes(tensor(more=(Raw(same),))))


def _rank(count: int) -> bytes:
    """Return one tensor of n dimensions of 2^58 each."""
    sizes = opcodes(1 << 58) + _kept(0) + b"0(" + _again(0) * count + b"t"
    whole = tensor(Raw(sizes), Raw(b"(" + b"K\x00" * count + b"t"))
    return b"}" + _text("w") + opcodes(whole) + b"s"


def _empty_rank(count: int) -> bytes:
    """Return n tensors of the same n dimensions, which hold nothing."""
    sizes = Raw(b"(" + b"K\x00" * count + b"t")
    return _shared(
        count,
        sizes,
        lambda same: opcodes(tensor(Raw(same), Raw(same), of=storage(key="1", items=0))),
    )


def _sparse_sizes(count: int) -> bytes:
    """Return n sparse tensors with the same n sizes, and indices of no entries for them."""
    nothing = tensor((count, 0), (1, 1), of=storage("LongStorage", items=2))
    values = tensor((0,), (1,), of=storage("LongStorage", items=2))
    sizes = opcodes(Raw(b"(" + b"K\x01" * count + b"t"))
    parts = (nothing, values, Raw(sizes), False)
    made = ("torch.sparse_coo", parts)
    layout = Call(Name("torch.serialization", "_get_layout"), (made[0],))
    call = Name("torch._utils", "_rebuild_sparse_tensor")
    return _shared(count, (layout, parts), lambda same: opcodes(Call(call, Raw(same))))


def _scales(count: int) -> bytes:
    """Return n quantized tensors of n channels with the same scales."""
    scales = opcodes(0.5) + _kept(1) + b"0(" + _again(1) * count + b"t" + _kept(2)
    zeros = b"(" + b"K\x00" * count + b"t" + _kept(3)
    scheme = (Name("torch", "per_channel_affine"), Raw(_again(2)), Raw(_again(3)), 0)
    held = storage("QInt8Storage", items=count)
    whole = Call(
        Name("torch._utils", "_rebuild_qtensor"), (held, 0, (count,), (1,), scheme, False, None)
    )
    made = opcodes(whole)
    return scales + zeros + b"00" + _entries(count, lambda _: made)


def _calls(count: int) -> bytes:
    """Return n calls of n different names."""
    made = b"".join(b"cm%d\nf\n)R" % at for at in range(count))
    return b"}" + _text("a") + b"(" + made + b"ls" + _text("fc.weight") + _ONE + b"s"


def _keys_of_tuples(count: int) -> bytes:
    """Return a dictionary of n keys, all of them the same tuple of n."""
    key = b"(" + b"N" * count + b"t" + _kept(0) + b"0"
    return key + b"}(" + (_again(0) + b"N") * count + b"u" + _text("w") + _ONE + b"s"


def _nested(count: int) -> bytes:
    """Return n tensors below four hundred dictionaries."""
    depth = 400
    steps = (b"}" + _text("a")) * depth
    return steps + _entries(count, lambda _: _ONE) + b"s" * depth


def _same_list(count: int) -> bytes:
    """Return n dictionaries that hold the same list of n."""
    same = b"](" + b"}" * count + b"e" + _kept(0) + b"0"
    return same + _entries(count, lambda _: b"}" + _text("a") + _again(0) + b"s")


def _modules(count: int, *, same: bool) -> bytes:
    """Return a module of n linear layers: each of its own, or one under n names."""
    made = opcodes(_module({"weight": tensor()}, {}))
    if not same:
        parts = {f"l{at}": Raw(made) for at in range(count)}
        return opcodes(_module({}, parts, "Sequential"))
    parts = {f"l{at}": Raw(_again(0)) for at in range(count)}
    return made + _kept(0) + b"0" + opcodes(_module({}, parts, "Sequential"))


def _module(
    weights: Mapping[str, object], parts: Mapping[str, object], kind: str = "Linear"
) -> Call:
    state = {
        "training": False, "_parameters": {**weights}, "_buffers": {}, "_modules": {**parts},
        "in_features": 2, "out_features": 2,
    }  # fmt: skip
    home = "torch.nn.modules." + ("linear" if kind == "Linear" else "container")
    return Call(Name("copyreg", "_reconstructor"),
                (Name(home, kind), Name("builtins", "object"), None), state)  # fmt: skip


def _legacy(folder: Path, count: int) -> Path:
    """Write n storages in the layout before torch 1.6."""
    keys = [str(at) for at in range(count)]
    tree = {f"l{key}.w": tensor(of=legacy_torch._base(key=key)) for key in keys}
    path = folder / "m.pt"
    path.write_bytes(b"".join(legacy_torch._parts(tree, keys, legacy_torch._STORED * count)))
    return path


CASES: tuple[Growth, ...] = (
    _file("memo-lines-that-collide", _memo_lines, 5_000),
    _file("memo-numbers", _memo_numbers, 100_000),
    _file("pairs-that-collide", _pairs, 5_000),
    _file("opcodes", lambda n: b"N0" * n + _one_entry(), 200_000),
    _file("marks", lambda n: b"(" * n + b"1" * n + _one_entry(), 200_000),
    _file("arguments-of-many-calls", _shared_arguments, 2_000),
    _file("metadata-of-many-tensors", _metadata, 3_000),
    _file("rank", _rank, 20_000),
    _file("rank-of-many-tensors", _empty_rank, 3_000),
    _file("sizes-of-many-sparse-tensors", _sparse_sizes, 3_000),
    _file("scales-of-many-tensors", _scales, 2_000, data=-1),
    _file("names-that-are-called", _calls, 5_000),
    _file("keys-that-are-tuples", _keys_of_tuples, 2_000),
    _file("tensors-of-one-storage", lambda n: _entries(n, lambda _: _ONE), 2_000),
    _file("nested-names", _nested, 500),
    _file("list-in-many-places", _same_list, 5_000),
    _file("key-of-slashes", lambda n: b"}" + _text("/" * n + ".weight") + _ONE + b"s", 250_000),
    _file("key-of-dots", lambda n: b"}" + _text("." * n + ".weight") + _ONE + b"s", 250_000),
    _file("entries", lambda n: opcodes({f"k{at}": at for at in range(n)}) + b"0" + _one_entry(),
          40_000),
    _file("modules", lambda n: _modules(n, same=False), 200),
    _file("module-in-many-places", lambda n: _modules(n, same=True), 400),
    Growth("legacy-storages", _legacy, 2_000),
)  # fmt: skip
