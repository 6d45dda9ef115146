"""Pickles: programs of opcodes, well formed and nearly so, in a torch zip with right checksums."""

import io
import pickletools
import struct
import zipfile
from random import Random

from tests.fuzz.case import Case
from tests.fuzz.corpus import good
from tests.fuzz.mutations import edge, mutated

_NAMES = (
    b"torch._utils _rebuild_tensor_v2", b"torch._utils _rebuild_tensor_v3",
    b"torch._utils _rebuild_parameter", b"torch._utils _rebuild_meta_tensor_no_storage",
    b"torch._utils _rebuild_sparse_tensor", b"torch._utils _rebuild_qtensor",
    b"torch FloatStorage", b"torch HalfStorage", b"torch QInt8Storage",
    b"torch.storage UntypedStorage",
    b"torch float32", b"torch int8", b"torch dtype", b"torch Size", b"collections OrderedDict",
    b"copyreg _reconstructor", b"os system", b"posix system", b"builtins eval", b"builtins set",
    b"torch.nn.modules.linear Linear", b"torch.nn.modules.container Sequential",
    b"torch.nn.modules.conv Conv2d", b"torch.nn.modules.batchnorm BatchNorm2d",
    b"__torch__ Net", b"\xff\xfe \x00", b" ",
)  # fmt: skip
_TEXTS = (
    "weight", "bias", "0", "1", "storage", "cpu", "_modules", "_parameters", "_buffers", "training",
    "state_dict", "optimizer", "ema", "running_mean", "running_var", "in_features", "kernel_size",
    "stride", "padding", "groups", "fc.weight", "conv.weight", "weight_g", "weight_v", "\ud800",
    "", "\x1b[31m", "a\nb", "::error::x", "module.x", "weight_hh_l0", "x" * 300,
    "touch CODE-RAN",
)  # fmt: skip
_PLAIN = (b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f", b"(", b"G" + struct.pack(">d", 0.5),
          b"G" + struct.pack(">d", float("nan")), b"I01\n", b"I-3\n", b"L5L\n", b"F1.5\n", b"Fx\n",
          b"Inope\n", b"I\n", b"S'a'\n", b"S\n", b"V\\ud800\n", b"P1\n", b"F1e999\n")  # fmt: skip
_MOVES = (b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"R", b"b", b"Q", b"\x81",
          b"\x92", b"\x93", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91", b"\x94", b".",
          b"i", b"o", b"\x82\x01", b"\x97", b"\x98")  # fmt: skip


def programs(rng: Random) -> Case:
    """Return a torch zip whose pickle is a random program."""
    return wrapped(rng, _program(rng))


def edited(rng: Random) -> Case:
    """Return a torch zip whose pickle is that of a good file, some opcodes of it changed."""
    kind = rng.choice(("pt", "module", "checkpoint", "torchscript"))
    (data,) = good()[kind].files.values()
    members = members_of(data)
    name = next(name for name in members if name.endswith("/data.pkl"))
    members[name] = _edited(rng, members[name])
    return Case({"model.pt": zipped(members)}, "model.pt")


def legacy(rng: Random) -> Case:
    """Return a legacy file, opcodes of one of its five pickles changed."""
    (data,) = good()["legacy"].files.values()
    pickles, start = [], 0
    for _ in range(5):
        end = next(at for code, _, at in pickletools.genops(data[start:]) if code.code == ".") or 0
        pickles.append(data[start : start + end + 1])
        start += end + 1
    chosen = rng.choice((2, 3, 3, 3, 4))
    pickles[chosen] = _edited(rng, pickles[chosen])
    rest = data[start:] if rng.random() < 0.7 else mutated(rng, data[start:])
    return Case({"model.pt": b"".join(pickles) + rest}, "model.pt")


def nested(rng: Random) -> Case:
    """Return a pickle of containers in containers: deep, shared, or inside themselves."""
    depth = rng.choice((3, 20, 45, 300, 499, 501, 1200))
    way = rng.choice(("inward", "outward", "shared", "cycle", "modules"))
    return wrapped(rng, b"\x80\x02" + _WAYS[way](rng, depth) + b".")


def wrapped(rng: Random, program: bytes) -> Case:
    """Put a pickle into an archive as torch writes it, with two storages."""
    members = {
        "archive/data.pkl": program,
        "archive/byteorder": b"little",
        "archive/data/0": bytes(rng.choice((64, 64, 64, 36))),
        "archive/data/1": struct.pack("<16f", *range(16)),
        "archive/version": b"3\n",
    }
    return Case({"model.pt": zipped(members)}, "model.pt")


def members_of(data: bytes) -> dict[str, bytes]:
    """Return the members of a good archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    """Return an archive of stored members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def _program(rng: Random) -> bytes:
    out = bytearray(b"\x80" + bytes([rng.choice((2, 2, 2, 3, 4, 5, 6))]))
    for height in range(rng.choice((3, 10, 30, 100))):
        chance = rng.random()
        if chance < 0.2 and height:
            out += rng.choice(_MOVES[:21])
        elif chance < 0.22:
            out += rng.choice(_MOVES)
        elif chance < 0.35:
            out += _tensor(rng)
        elif chance < 0.45:
            out += _entry(rng)
        else:
            out += _value(rng)
    if rng.random() < 0.6:
        # What is left is put into one dictionary, so that the reader sees all of it.
        out = bytearray(b"\x80\x02}(") + _pairs(rng, bytes(out[2:])) + b"u"
    return bytes(out + b".")


def _pairs(rng: Random, program: bytes) -> bytes:
    out = bytearray()
    for _ in range(rng.randint(1, 4)):
        out += _text(rng) + (program if rng.random() < 0.3 else _tensor(rng))
    return bytes(out)


def _entry(rng: Random) -> bytes:
    """Return a dictionary, or a module, with a few entries."""
    entries = b"".join(_text(rng) + rng.choice((_value, _tensor))(rng) for _ in range(3))
    dictionary = b"}(" + entries + b"u"
    if rng.random() < 0.5:
        return dictionary
    groups = b"".join(
        _utf8(group) + (dictionary if rng.random() < 0.8 else _value(rng))
        for group in ("_parameters", "_buffers", "_modules")
    )
    return _global(rng) + b")\x81}(" + groups + _text(rng) + _value(rng) + b"ub"


def _tensor(rng: Random) -> bytes:
    """Return the call that rebuilds a tensor, one of its parts perhaps odd."""
    parts = [
        _storage(rng),
        _number(rng, 0),
        _sizes(rng, (2, 2)),
        _sizes(rng, (2, 1)),
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    ]
    if rng.random() < 0.15:
        parts[rng.randrange(len(parts))] = _value(rng)
    if rng.random() < 0.05:
        parts = parts[: rng.randrange(len(parts))]
    if rng.random() < 0.1:
        parts.append(b"ctorch\n" + rng.choice((b"float32", b"int8", b"nope", b"load")) + b"\n")
    called = b"ctorch._utils\n_rebuild_tensor_v2\n" if rng.random() < 0.9 else _global(rng)
    return called + b"(" + b"".join(parts) + b"tR"


def _storage(rng: Random) -> bytes:
    odd = (b"HalfStorage", b"LongStorage", b"BoolStorage", b"ComplexFloatStorage")
    kind = b"FloatStorage" if rng.random() < 0.8 else rng.choice(odd)
    key = _utf8(rng.choice("00112")) if rng.random() < 0.95 else _value(rng)
    count = _number(rng, 16)
    return b"(" + _utf8("storage") + b"ctorch\n" + kind + b"\n" + key + _utf8("cpu") + count + b"tQ"


def _sizes(rng: Random, usual: tuple[int, ...]) -> bytes:
    sizes = list(usual)
    while rng.random() < 0.1:
        sizes.append(rng.choice((0, 1, 2)))
    return b"(" + b"".join(_number(rng, size) for size in sizes) + b"t"


def _number(rng: Random, usual: int) -> bytes:
    chance = rng.random()
    if chance < 0.85:
        return b"K" + bytes([usual])
    if chance < 0.95:
        value = edge(rng)
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    return _value(rng)


def _value(rng: Random) -> bytes:
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(_PLAIN)
    if chance < 0.55:
        return _text(rng)
    if chance < 0.65:
        return b"J" + rng.randbytes(4)
    if chance < 0.75:
        return _global(rng)
    if chance < 0.85:
        index = rng.randrange(4)
        return rng.choice((b"q%c" % index, b"h%c" % index, b"g%d\n" % index, b"p%d\n" % index))
    if chance < 0.9:
        size = rng.choice((0, 1, 5, 200, 4096))
        return b"\x8b" + struct.pack("<i", size) + rng.randbytes(size)
    code = rng.choice((b"X<I", b"T<i", b"B<I", b"\x8d<Q", b"\x8e<Q", b"\x96<Q", b"\x8b<i"))
    layout = code[1:].decode()
    width = 8 * struct.calcsize(layout)
    value = edge(rng) & ((1 << width) - 1)
    if layout == "<i" and value >> 31:
        value -= 1 << 32
    return code[:1] + struct.pack(layout, value) + rng.randbytes(3)


def _text(rng: Random) -> bytes:
    return _utf8(rng.choice(_TEXTS))


def _utf8(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _global(rng: Random) -> bytes:
    module, _, name = rng.choice(_NAMES).partition(b" ")
    return b"c" + module + b"\n" + name + b"\n"


def _edited(rng: Random, program: bytes) -> bytes:
    """Leave out, repeat, exchange or insert opcodes, or put values in the place of others."""
    starts = [at for _, _, at in pickletools.genops(program) if at is not None]
    ends = [*starts[1:], len(program)]
    pieces = [program[a:b] for a, b in zip(starts, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(1, len(pieces))
        way = rng.randrange(6)
        if way == 0:
            del pieces[at : at + rng.choice((1, 1, 3))]
        elif way == 1:
            pieces[at:at] = pieces[at : at + rng.choice((1, 3, 10))]
        elif way == 2:
            other = rng.randrange(1, len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif way == 3:
            pieces.insert(at, rng.choice((_value, _text, _tensor, _entry))(rng))
        elif way == 4:
            pieces.insert(at, rng.choice(_MOVES))
        else:
            pieces[at] = rng.choice((_value, _text, _tensor))(rng)
        if len(pieces) < 2:
            break
    return b"".join(pieces)


def _inward(rng: Random, depth: int) -> bytes:
    """Each container is made before the one around it."""
    around = rng.choice((b"\x85", b"\x86", b"d", b"l"))
    if around == b"\x86":
        return _tensor(rng) + b"N\x86" * depth
    if around == b"\x85":
        return _tensor(rng) + b"\x85" * depth
    opening = b"(" if around == b"l" else b"(" + _text(rng)
    return opening * depth + _tensor(rng) + around * depth


def _outward(rng: Random, depth: int) -> bytes:
    """Each container is put into the one around it before it has anything itself."""
    is_list = rng.random() < 0.5
    key = b"" if is_list else _utf8("k" * rng.choice((1, 30, 3000)))
    empty, put = (b"]", b"a") if is_list else (b"}", b"s")
    out = empty + b"q\x00"
    for at in range(1, depth + 1):
        number = struct.pack("<I", at)
        # A new one, remembered, goes into the old one, and takes its place on the stack.
        out += key + empty + b"r" + number + put + b"0j" + number
    return out + key + _tensor(rng) + put + b"0h\x00"


def _shared(rng: Random, depth: int) -> bytes:
    """Each container holds the one before it twice."""
    around = rng.choice((b"2\x86", b"2\x86\x85"))
    return _tensor(rng) + around * min(depth, 240)


def _cycle(rng: Random, _: int) -> bytes:
    """Put a container into itself, or two into each other."""
    return rng.choice(
        (
            b"]q\x00h\x00a",
            b"}q\x00" + _text(rng) + b"h\x00s",
            b"]q\x00]q\x01h\x00aa",
            b"]q\x00(h\x00t0h\x00(h\x00ta",
            b"}q\x00" + _text(rng) + b"(h\x00ts",
            _global(rng) + b")\x81q\x00}" + _text(rng) + b"h\x00sb",
            _global(rng) + b")Rq\x00" + _text(rng) + b"h\x00s",
        )
    )


def _modules(rng: Random, depth: int) -> bytes:
    """Modules in modules, each perhaps in two places of the next."""
    out = bytearray()
    places = rng.choice((1, 2))
    inner = _utf8("_parameters") + b"}" + _utf8("weight") + _tensor(rng) + b"s"
    out += b"ctorch.nn.modules.linear\nLinear\n)\x81}(" + inner + b"ub"
    for at in range(min(depth, rng.choice((5, 60, 240)))):
        out += b"r" + struct.pack("<I", at) + b"0"
        again = b"j" + struct.pack("<I", at)
        held = b"}(" + b"".join(_utf8(str(n)) + again for n in range(places)) + b"u"
        out += b"ctorch.nn.modules.container\nSequential\n)\x81}" + _utf8("_modules") + held + b"sb"
    return bytes(out)


_WAYS = {
    "inward": _inward,
    "outward": _outward,
    "shared": _shared,
    "cycle": _cycle,
    "modules": _modules,
}
