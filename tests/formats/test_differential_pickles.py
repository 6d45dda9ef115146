"""Pickles that do more to a tensor than rebuild it: we read what torch loads, or say so if not.

Random programs of what torch's restricted loader allows: states, items and attributes given to
tensors, parameters made by their class, dictionaries made of pairs that change later, tensors
in counters, sets, keys and attributes.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.detect import read_model
from lipaudit.gates.certainty import WITHOUT_NUMBERS
from lipaudit.graph.model import Model
from tests.formats import bits
from tests.hostile.pickling import archive

ITEMS = 12
DATA = {
    "0": struct.pack(f"<{ITEMS}f", *range(1, ITEMS + 1)),
    "1": struct.pack(f"<{ITEMS}f", *range(100, 100 + ITEMS)),
}
TOLD = {*WITHOUT_NUMBERS, "tensor-layout"}
PROGRAMS = 150
"""Of each seed."""


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def listed(*values: bytes) -> bytes:
    return b"](" + b"".join(values) + b"e"


def tupled(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def table(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def name(module: str, of: str) -> bytes:
    return f"c{module}\n{of}\n".encode()


HOOKS = name("collections", "OrderedDict") + b")R"
NO, YES = b"\x89", b"\x88"
ORDERED = name("collections", "OrderedDict")
PARAMETER = name("torch.nn.parameter", "Parameter")


class Programs:
    """Draws the opcodes of values; `later` are opcodes that are run before the program ends."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)  # noqa: S311 - the same programs in every run
        self.memo = 0
        self.later: list[bytes] = []
        self.shown = b""

    def checkpoint(self) -> bytes:
        """Return a pickle of a few values by name."""
        self.memo, self.later = 0, []
        entries = {f"w{at}": self.value() for at in range(self.rng.randint(1, 3))}
        after = b"".join(self.later)
        self.shown = b"\x80\x02" + table(**entries) + after + b"."
        return self.shown

    def value(self, depth: int = 0) -> bytes:
        """Draw a tensor, something done to one, or what holds one."""
        ways: list[Callable[[], bytes]] = [
            self.tensor, self.tensor, self.built, self.written, self.wrapped, self.with_state,
            self.typed, self.alias, self.parameter, self.parameter_built, self.made, self.seen,
            self.sized,
        ]  # fmt: skip
        holders: list[Callable[[int], bytes]] = [
            self.ordered, self.counter, self.pairs, self.attached, self.gathered, self.keyed,
        ]  # fmt: skip
        if depth < 3 and self.rng.random() < 0.4:
            return self.rng.choice(holders)(depth + 1)
        return self.rng.choice(ways)()

    def again(self, value: bytes, change: bytes) -> bytes:
        """Return a value that is changed once the whole tree stands."""
        put = struct.pack("<I", self.memo)
        self.memo += 1
        self.later.append(b"j" + put + change + b"0")
        return value + b"r" + put

    def storage(self) -> bytes:
        kind = self.rng.choice(("Float", "Float", "Float", "Float", "Int"))
        where = self.rng.choice(("cpu",) * 9 + ("meta",))
        key = self.rng.choice("01")
        parts = (text("storage"), name("torch", f"{kind}Storage"), text(key), text(where))
        return tupled(*parts, whole(ITEMS)) + b"Q"

    def window(self) -> tuple[bytes, ...]:
        rows, columns = self.rng.choice(((2, 2), (2, 3), (3, 2), (1, 4), (4, 1)))
        size = tupled(whole(rows), whole(columns))
        first = whole(self.rng.randint(0, ITEMS - rows * columns))
        return self.storage(), first, size, tupled(whole(columns), whole(1))

    def tensor(self, *more: bytes) -> bytes:
        args = (*self.window(), NO, HOOKS, *more)
        return name("torch._utils", "_rebuild_tensor_v2") + tupled(*args) + b"R"

    def state(self) -> bytes:
        """Draw what BUILD might hand to a tensor."""
        return self.rng.choice(
            (
                lambda: tupled(*self.window()),
                lambda: tupled(NO, NO, HOOKS),
                lambda: tupled(self.tensor(), b"N", HOOKS, NO, NO),
                lambda: table(data=self.tensor()),
                lambda: table(mine=whole(1)),
                lambda: b"N",
                lambda: tupled(table(data=self.tensor()), b"N"),
            )
        )()

    def built(self) -> bytes:
        return self.tensor() + self.state() + b"b"

    def written(self) -> bytes:
        value = b"G" + struct.pack(">d", 1000.0)
        how = self.rng.choice(
            (whole(0) + value + b"s", b"(" + whole(0) + value + b"u", value + b"a", b"(" + b"e")
        )
        return self.tensor() + how

    def wrapped(self) -> bytes:
        inner = self.value(3) if self.rng.random() < 0.3 else self.tensor()
        return name("torch._utils", "_rebuild_parameter") + tupled(inner, NO, HOOKS) + b"R"

    def attributes(self) -> bytes:
        key = self.rng.choice(("data", "mine", "grad", "shape", "requires_grad", "_is_param"))
        value = self.rng.choice((self.tensor(), whole(0), NO)) if key != "_is_param" else NO
        found = table(**{key: value})
        if self.rng.random() < 0.3:
            found = self.again(table(), text(key) + value + b"s")
        return tupled(found, b"N") if self.rng.random() < 0.2 else found

    def with_state(self) -> bytes:
        args = tupled(self.tensor(), NO, HOOKS, self.attributes())
        return name("torch._utils", "_rebuild_parameter_with_state") + args + b"R"

    def typed(self) -> bytes:
        kind = self.rng.choice((name("torch", "Tensor"), PARAMETER))
        inner = tupled(*self.window(), NO, HOOKS)
        args = tupled(name("torch._utils", "_rebuild_tensor_v2"), kind, inner, self.attributes())
        return name("torch._tensor", "_rebuild_from_type_v2") + args + b"R"

    def alias(self) -> bytes:
        """Draw a tensor that gets other values through what is dropped."""
        call = name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")
        inner = tupled(b"h\xff", name("torch", "float32"), text("cpu"), NO)
        args = tupled(call, name("torch", "Tensor"), inner, self.attributes())
        typed = name("torch._tensor", "_rebuild_from_type_v2") + args + b"R"
        built = call + inner + b"R" + self.state() + b"b"
        return self.tensor() + b"q\xff" + self.rng.choice((typed, built)) + b"0"

    def parameter(self) -> bytes:
        args = self.rng.choice((tupled(self.tensor()), tupled(self.tensor(), NO), b")"))
        return PARAMETER + args + self.rng.choice((b"R", b"\x81"))

    def parameter_built(self) -> bytes:
        twice = self.state() + b"b" if self.rng.random() < 0.3 else b""
        return PARAMETER + tupled(self.tensor(), NO) + b"R" + self.state() + b"b" + twice

    def made(self) -> bytes:
        """Draw a call of a class of tensors itself."""
        one = b"G" + struct.pack(">d", 1.0)
        args = self.rng.choice(
            (tupled(self.tensor()), tupled(listed(one, one)), tupled(whole(2), whole(2)), b")")
        )
        kind = self.rng.choice((name("torch", "Tensor"), name("torch", "FloatTensor")))
        return kind + args + self.rng.choice((b"R", b"R" + self.state() + b"b", b"\x81"))

    def seen(self) -> bytes:
        """Draw a tensor with notes of what it stands for, which may change later."""
        notes = self.rng.choice(
            (
                lambda: table(neg=YES),
                lambda: table(neg=NO),
                lambda: ORDERED + b")R" + text("neg") + YES + b"s",
                lambda: self.again(table(neg=YES), text("neg") + NO + b"s"),
                lambda: self.again(table(), text("neg") + YES + b"s"),
            )
        )()
        return self.tensor(notes)

    def sized(self) -> bytes:
        """Draw sizes that are a torch.Size, or a list that may grow."""
        storage, first, _, _ = self.window()
        size = tupled(whole(2), whole(2))
        sizes = self.rng.choice(
            (
                lambda: name("torch", "Size") + tupled(size) + b"R",
                lambda: name("torch", "Size") + tupled(listed(whole(2), whole(2))) + b"R",
                lambda: self.again(listed(whole(2), whole(2)), whole(1) + b"a"),
            )
        )()
        rest = (tupled(whole(2), whole(1)), NO, HOOKS)
        call = name("torch._utils", "_rebuild_tensor_v2")
        return call + tupled(storage, whole(0), sizes, *rest) + b"R" + first + b"0"

    def ordered(self, depth: int) -> bytes:
        made = ORDERED + b")R" + text("a") + self.value(depth) + b"s"
        if self.rng.random() < 0.5:
            made += table(_metadata=whole(1)) + b"b"
        if self.rng.random() < 0.3:
            made = ORDERED + tupled(made) + self.rng.choice((b"R", b"\x81"))
        return made

    def counter(self, depth: int) -> bytes:
        kind = self.rng.choice((name("collections", "Counter"), ORDERED))
        held = table(a=self.value(depth))
        if self.rng.random() < 0.3:
            held = self.again(held, text("b") + self.value(depth) + b"s")
        return kind + tupled(held) + self.rng.choice((b"R", b"\x81"))

    def pairs(self, depth: int) -> bytes:
        pair = listed(self.rng.choice((text("a"), whole(7), b"N")), self.value(depth))
        if self.rng.random() < 0.2:
            pair = self.again(pair, self.value(depth) + b"a")
        held = listed(pair)
        if self.rng.random() < 0.4:
            held = self.again(held, listed(text("a"), self.value(depth)) + b"a")
        return ORDERED + tupled(held) + self.rng.choice((b"R", b"R", b"\x81"))

    def attached(self, depth: int) -> bytes:
        """Draw a dictionary that has a tensor as an attribute, and none as an entry."""
        return ORDERED + b")R" + table(weight=self.value(depth)) + b"b"

    def gathered(self, depth: int) -> bytes:
        one, other = self.value(depth), self.value(depth)
        gathered = name("builtins", "set") + tupled(listed(one, other)) + b"R"
        return self.rng.choice((gathered, listed(one, other), tupled(one, tupled(other))))

    def keyed(self, depth: int) -> bytes:
        return b"}" + self.value(depth) + whole(1) + b"s"


def tensors_in(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor that can be reached, an entry of the checkpoint or not."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield path, value
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors_in(key, f"{path}/<key>", seen)
            yield from tensors_in(part, f"{path}/{key}", seen)
    elif isinstance(value, (list, tuple)):
        for at, part in enumerate(value):
            yield from tensors_in(part, f"{path}[{at}]", seen)
    elif isinstance(value, set):
        for part in value:
            yield from tensors_in(part, f"{path}/<set>", seen)
    for key, part in getattr(value, "__dict__", {}).items():
        yield from tensors_in(part, f"{path}/<{key}>", seen)


def loaded(data: bytes, *, weights_only: bool) -> dict[str, torch.Tensor] | None:
    """Return what torch loads, None where it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = torch.load(io.BytesIO(data), weights_only=weights_only)
        except Exception:  # noqa: BLE001 - loaders raise what they will
            return None
    return {path.removeprefix("/"): value for path, value in tensors_in(tree, "", set())}


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return theirs.device.type == "cpu" and bits.same(
        ours, theirs.detach().resolve_conj().resolve_neg()
    )


def contradictions(model: Model, theirs: dict[str, torch.Tensor]) -> list[str]:
    """Return the tensors that differ, are made up, or are left out without a word."""
    told = [one.name for one in model.unread if one.slug in TOLD]
    wrong = []
    for key, value in theirs.items():
        if key in model.tensors:
            if not same(model.tensors[key].read(), value):
                wrong.append(f"{key} differs")
        elif not any(key == one or key.startswith((f"{one}/", f"{one}[")) for one in told):
            wrong.append(f"{key} is hidden")
    wrong += [f"{key} is made up" for key in model.tensors if key not in theirs]
    return wrong


@pytest.mark.parametrize("seed", range(6))
def test_what_torch_loads_is_read_or_named(seed: int, tmp_path: Path) -> None:
    programs = Programs(seed)
    read = 0
    for _ in range(PROGRAMS):
        path = archive(tmp_path, programs.checkpoint(), DATA)
        data = path.read_bytes()
        both = [loaded(data, weights_only=only) for only in (True, False)]
        try:
            model = read_model(str(path))
        except (MalformedFile, UnsafeFile):
            continue
        for theirs in both:
            if theirs is not None:
                read += 1
                assert not contradictions(model, theirs), programs.shown
    assert read > PROGRAMS // 8, "hardly any program is one that both read"
