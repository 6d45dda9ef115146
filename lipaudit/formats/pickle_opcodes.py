"""The pickle opcodes that torch's files use, each a small move of the machine.

What is missing is missing on purpose: extension codes, and the old INST and OBJ.
"""

import struct
from collections.abc import Callable, Mapping

from lipaudit.formats.pickle_machine import MARK, Global, Handler, Machine, Persistent, Record

_LONGEST_INTEGER = 1024
"""Bytes, and half as many digits as may be written out. The states of random generators take a few
dozen; Python writes out no more than 4,300 digits unless it is told to, which is where a longer
integer would break whatever mentions it."""


def _push(value: object) -> Handler:
    return lambda m: m.push(value)


def _number(layout: str) -> Handler:
    return lambda m: m.push_plain(m.number(layout))


def _counted(layout: str, convert: Callable[[bytes], object]) -> Handler:
    return lambda m: m.push_plain(convert(m.take(m.number(layout))))


def _text(layout: str) -> Handler:
    def handler(m: Machine) -> None:
        data = m.take(m.number(layout))
        m.budget.check_text(data)
        m.push_plain(data.decode("utf-8", "surrogatepass"))

    return handler


def _unsigned_long(m: Machine) -> None:
    m.push_plain(int.from_bytes(m.take(m.number("<B")), "little", signed=True))


def _long4(m: Machine) -> None:
    length = m.number("<i")
    if length > _LONGEST_INTEGER:
        raise m.broken(f"an integer of {length:,} bytes")
    m.push_plain(int.from_bytes(m.take(length), "little", signed=True))


def _decimal(m: Machine) -> None:
    text = m.line().rstrip(b"L")
    if len(text) > 2 * _LONGEST_INTEGER:
        raise m.broken(f"an integer of {len(text):,} digits")
    flags = {b"00": False, b"01": True}
    m.push_plain(flags[text] if text in flags else int(text))


def _line_string(m: Machine) -> None:
    quoted = m.line()
    if len(quoted) < 2 or quoted[:1] != quoted[-1:]:
        raise m.broken("a string without quotes")
    m.push_plain(quoted[1:-1].decode("latin-1"))


def _tuple(m: Machine, count: int) -> None:
    parts = m.stack[len(m.stack) - count :]
    if len(parts) < count:
        raise m.broken("the stack ran dry")
    del m.stack[len(m.stack) - count :]
    m.push(m.made(tuple(parts), len(parts)))


def _mark_tuple(m: Machine) -> None:
    parts = m.since_mark()
    m.push(m.made(tuple(parts), len(parts)))


def _mark_list(m: Machine) -> None:
    parts = m.since_mark()
    m.push(m.made(parts, len(parts)))


def _mark_dict(m: Machine) -> None:
    pairs = m.since_mark()
    m.push(m.made({}))
    m.store(m.stack[-1], pairs)


def _mark_set(m: Machine) -> None:
    parts = m.since_mark()
    record = Record(Global("builtins", "frozenset"), (), elements=parts)
    m.push(m.made(record, len(parts)))


def _empty_set(m: Machine) -> None:
    m.push(m.made(Record(Global("builtins", "set"), ())))


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.store(m.stack[-1], [key, value])


def _set_items(m: Machine) -> None:
    pairs = m.since_mark()
    m.store(m.stack[-1], pairs)


def _append(m: Machine) -> None:
    value = m.stack.pop()
    m.extend(m.stack[-1], [value])


def _appends(m: Machine) -> None:
    values = m.since_mark()
    m.extend(m.stack[-1], values)


def _global(m: Machine) -> None:
    m.mention(m.line(), m.line())


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise m.broken("a global without a name")
    m.mention(module, name)


def _reduce(m: Machine) -> None:
    args, made_by = m.stack.pop(), m.stack.pop()
    m.call(made_by, args)


def _new(m: Machine) -> None:
    args, made_by = m.stack.pop(), m.stack.pop()
    m.call(made_by, args, is_new=True)


def _new_ex(m: Machine) -> None:
    kwargs, args, made_by = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.call(made_by, m.made((args, kwargs)), is_new=True)


def _build(m: Machine) -> None:
    state = m.stack.pop()
    m.build(m.stack[-1], state)


def _persistent(m: Machine) -> None:
    identity = m.stack.pop()
    m.check_storage(identity)
    m.push(m.made(Persistent(identity)))


def _get(index: Callable[[Machine], int]) -> Handler:
    return lambda m: m.push(m.memo[index(m)])


def _put(index: Callable[[Machine], int]) -> Handler:
    return lambda m: m.remember(index(m))


def _duplicate(m: Machine) -> None:
    m.push(m.stack[-1])


def _stop(m: Machine) -> None:
    m.done = True


def _frame(m: Machine) -> None:
    m.number("<Q")  # how long the frame is; the stream is read without them


def _protocol(m: Machine) -> None:
    version = m.number("<B")
    if version > 5:
        raise m.broken(f"protocol {version}")


def _latin(data: bytes) -> str:
    # Python 2 strings: bytes or text, nobody knows; latin-1 loses nothing.
    return data.decode("latin-1")


def _pop(m: Machine) -> None:
    m.stack.pop()


def _pop_mark(m: Machine) -> None:
    m.since_mark()


def _memoize(m: Machine) -> None:
    m.remember(len(m.memo))


def _float_line(m: Machine) -> None:
    m.push_plain(float(m.line()))


def _big_float(m: Machine) -> None:
    m.push_plain(struct.unpack(">d", m.take(8))[0])


def _unicode_line(m: Machine) -> None:
    data = m.line()
    m.budget.charge(4 * len(data))  # an escape may make every character of it wide
    m.push_plain(data.decode("raw-unicode-escape"))


def _persistent_line(m: Machine) -> None:
    identity = m.budget.value(m.line().decode("latin-1"))
    m.push(m.made(Persistent(identity)))


def _list(m: Machine) -> None:
    m.push(m.made([]))


def _dict(m: Machine) -> None:
    m.push(m.made({}))


def _line_index(m: Machine) -> int:
    text = m.line()
    # Larger integers could be chosen so that all of them have one hash.
    if len(text) > 10 or not text.isdigit() or int(text) >= 1 << 32:
        raise m.broken("a number that is no place in the memo")
    return int(text)


OPCODES: Mapping[int, Handler] = {
    ord("("): _push(MARK),
    ord("."): _stop,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _duplicate,
    ord("F"): _float_line,
    ord("I"): _decimal,
    ord("J"): _number("<i"),
    ord("K"): _number("<B"),
    ord("L"): _decimal,
    ord("M"): _number("<H"),
    ord("N"): _push(None),
    ord("P"): _persistent_line,
    ord("Q"): _persistent,
    ord("R"): _reduce,
    ord("S"): _line_string,
    ord("T"): _counted("<i", _latin),
    ord("U"): _counted("<B", _latin),
    ord("V"): _unicode_line,
    ord("X"): _text("<I"),
    ord("a"): _append,
    ord("b"): _build,
    ord("c"): _global,
    ord("d"): _mark_dict,
    ord("}"): _dict,
    ord("e"): _appends,
    ord("g"): _get(_line_index),
    ord("h"): _get(lambda m: m.number("<B")),
    ord("j"): _get(lambda m: m.number("<I")),
    ord("l"): _mark_list,
    ord("]"): _list,
    ord("p"): _put(_line_index),
    ord("q"): _put(lambda m: m.number("<B")),
    ord("r"): _put(lambda m: m.number("<I")),
    ord("s"): _set_item,
    ord("t"): _mark_tuple,
    ord(")"): _push(()),
    ord("u"): _set_items,
    ord("G"): _big_float,
    0x80: _protocol,
    0x81: _new,
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    0x88: _push(True),
    0x89: _push(False),
    0x8A: _unsigned_long,
    0x8B: _long4,
    ord("B"): _counted("<I", bytes),
    ord("C"): _counted("<B", bytes),
    0x8C: _text("<B"),
    0x8D: _text("<Q"),
    0x8E: _counted("<Q", bytes),
    0x8F: _empty_set,
    0x90: _appends,
    0x91: _mark_set,
    0x92: _new_ex,
    0x93: _stack_global,
    0x94: _memoize,
    0x95: _frame,
    0x96: _counted("<Q", bytes),
}
