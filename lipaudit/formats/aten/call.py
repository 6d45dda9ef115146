"""AtenCall: one operation of an exported graph, and the registry of its translators."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import ONNX_DOMAIN, Attribute
from lipaudit.graph.stated import Axes, Stated
from lipaudit.layers.registry import all_kinds

ATEN_DOMAIN = "aten"
"""Of operations that have no translation: they stay in the graph, opaque and named."""

Sizes = tuple[int | None, ...]

_EXACT_TYPES: Mapping[str, torch.dtype] = {
    "bool": torch.bool,
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8"), torch.int64),
}


class Untranslatable(Exception):
    """Raised by a translator for a variant it does not know."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is a tensor: the name of an edge or a constant."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """An argument that is a number known only when the network runs."""

    name: str = ""
    """Of the size that it is, as `AtenCall.axes` calls it; "" where it is another number."""


SYMBOL = Symbol()


@dataclass(frozen=True, slots=True)
class Values:
    """What is stated of the tensors of a graph, and what its translation has made use of."""

    shapes: Mapping[str, Axes]
    """Sizes of every tensor of the graph, as exported; a symbol or None where they are open."""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    """Item type of every tensor of the graph."""
    relied: set[str] = field(default_factory=set)
    """The tensors whose stated sizes went into a translation, or whose type did."""
    relied_types: set[str] = field(default_factory=set)

    def statement(self) -> Stated:
        """Return what the network is to be held against."""
        return Stated(
            self.shapes, self.dtypes, frozenset(self.relied), frozenset(self.relied_types)
        )


@dataclass(frozen=True, slots=True)
class AtenCall:
    """One call with its arguments by the names of the operator's schema."""

    op: str
    """Without overload: `conv2d`."""
    overload: str
    name: str
    """What reports show: the place in the code, if the file tells."""
    arguments: Mapping[str, object]
    outputs: tuple[str, ...]
    values: "Values"

    def tensor(self, name: str) -> str:
        """Return the name of a tensor argument; overloads call `self` also `input`."""
        value = self.arguments.get(name)
        if value is None and name == "self":
            value = self.arguments.get("input")
        if not isinstance(value, Ref):
            raise Untranslatable(f"{name} is no tensor")
        return value.name

    def optional(self, name: str) -> str:
        """Return the name of a tensor argument, "" when it is not given."""
        return self.tensor(name) if self.arguments.get(name) is not None else ""

    def tensors(self, name: str) -> tuple[str, ...]:
        """Return the names of a list of tensors."""
        value = self.arguments.get(name)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, Ref) for v in value):
            raise Untranslatable(f"{name} is no list of tensors")
        return tuple(v.name for v in value if isinstance(v, Ref))

    def integer(self, name: str, default: int) -> int:
        """Return an integer argument."""
        value = self.arguments.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Untranslatable(f"{name} is not a stored integer")
        return value

    def integers(self, name: str, rank: int | None = None, default: int = 0) -> tuple[int, ...]:
        """Return a list of integers; one number or none stands for all axes."""
        value = self.arguments.get(name, ())
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value,)
        if value is None or (isinstance(value, (list, tuple)) and not value):
            value = (default,)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) for v in value):
            raise Untranslatable(f"{name} is not a list of stored integers")
        sizes = tuple(int(v) for v in value)
        return sizes * rank if rank is not None and len(sizes) == 1 else sizes

    def number(self, name: str, default: float) -> float:
        """Return a number."""
        value = self.arguments.get(name, default)
        if value is None:
            return default
        if not isinstance(value, (int, float)):
            raise Untranslatable(f"{name} is not a stored number")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.arguments.get(name, default)
        return bool(value) if isinstance(value, (bool, int)) else default

    def word(self, name: str, default: str) -> str:
        """Return a text argument."""
        value = self.arguments.get(name, default)
        return value if isinstance(value, str) else default

    def shape(self, name: str) -> Sizes:
        """Return the sizes of an edge as exported, None where they are open.

        To ask is to rely on the answer: where nothing confirms it, what reads the edge is not
        understood. The sizes of results are not for asking, since nothing would be left to hold
        them against: they follow from the inputs and the arguments.
        """
        return tuple(axis if isinstance(axis, int) else None for axis in self.axes(name))

    def axes(self, name: str) -> Axes:
        """Return the sizes of an edge with the symbols of the open ones; see `shape`."""
        sizes = self._stated(name)
        self.values.relied.add(name)
        return sizes

    def rank(self, name: str) -> int:
        """Return the number of axes of an edge as exported.

        Only for what would be bounded alike, or cannot run, if that were not true.
        """
        return len(self._stated(name))

    def dtype(self, name: str) -> str:
        """Return the item type of an edge as exported, where the meaning depends on it."""
        self.values.relied.add(name)
        self.values.relied_types.add(name)
        return self.values.dtypes.get(name, "")

    def kind(self, name: str) -> str:
        """Return the item type of an edge, of which only the kind is confirmed: real or not."""
        return self.values.dtypes.get(name, "float32")

    def _stated(self, name: str) -> Axes:
        if name not in self.values.shapes:
            raise Untranslatable(f"the shape of {name} is not in the file")
        return self.values.shapes[name]


Translator = Callable[[AtenCall, GraphBuilder], None]
"""Write the nodes that make the call's outputs."""

_translators: dict[str, Translator] = {}


def translates(*names: str) -> Callable[[Translator], Translator]:
    """Register a translator for operators by name, every overload."""

    def register(translator: Translator) -> Translator:
        for name in names:
            if name in _translators:
                raise ValueError(f"{name} has a translator already")
            _translators[name] = translator
        return translator

    return register


def translate(call: AtenCall, build: GraphBuilder) -> None:
    """Write a call down; what has no translation becomes one opaque node.

    A call that makes no tensor, an assertion or the reading of a size, is left out.
    """
    if not call.outputs:
        return
    op = call.op
    try:
        # What a call writes in place it returns, too: see `writing`.
        plain = call.op.removesuffix("_")
        translator = _translators.get(call.op, _translators.get(plain))
        if translator is not None:
            translator(call, build)
            return
        for kind in all_kinds():
            if kind.aten == plain:
                emit(call, build, kind.op, [first_tensor(call)], domain=kind.domain)
                return
    except Untranslatable as problem:
        op = f"{call.op} ({problem})"
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        # A file may state axes that do not exist, or numbers that fit no tensor.
        op = f"{call.op} (its arguments make no sense)"
    inputs = [value.name for value in call.arguments.values() if isinstance(value, Ref)]
    inputs += [
        each.name
        for value in call.arguments.values()
        if isinstance(value, (list, tuple))
        for each in value
        if isinstance(each, Ref)
    ]
    build.add(op, inputs, name=call.name, outputs=call.outputs, domain=ATEN_DOMAIN)


def first_tensor(call: AtenCall) -> str:
    """Return the one tensor argument."""
    refs = [value.name for value in call.arguments.values() if isinstance(value, Ref)]
    if not refs:
        raise Untranslatable("no tensor argument")
    return refs[0]


def emit(
    call: AtenCall,
    build: GraphBuilder,
    op: str,
    inputs: Sequence[str],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    domain: str = ONNX_DOMAIN,
) -> None:
    """Write the node that makes the call's outputs."""
    build.add(
        op, inputs, name=call.name, attributes=attributes, outputs=call.outputs, domain=domain
    )


def step(
    call: AtenCall,
    build: GraphBuilder,
    op: str,
    inputs: Sequence[str],
    attributes: Mapping[str, Attribute] | None = None,
) -> str:
    """Write a node on the way to the call's outputs and return its edge."""
    edge = build.fresh(f"{call.outputs[0]}.{op}")
    return build.add(op, inputs, name=call.name, attributes=attributes, outputs=(edge,))


def filled(build: GraphBuilder, size: int, value: float, name: str) -> str:
    """Write a constant vector of equal values: the scale a layer leaves out."""
    return build.constant(computed(build.fresh(name), torch.full((size,), value)))


def scalar(call: AtenCall, build: GraphBuilder, value: float, name: str = "scalar") -> str:
    """Write a number of the code and return its name."""
    dtype = call.kind(call.outputs[0])
    stem = build.fresh(f"{call.name}.{name}")
    if isinstance(value, int) and (exact := _EXACT_TYPES.get(dtype)) is not None:
        return build.constant(computed(stem, torch.tensor(value, dtype=exact)))
    return build.constant(real(stem, torch.tensor(float(value), dtype=torch.float64), dtype))


def real(name: str, exact: torch.Tensor, dtype: str) -> Constant:
    """Wrap numbers of the code, given in float64, that meet signals of that item type.

    What the network means is the number itself. A run in float64 uses it as it is; one in a
    shorter type rounds it to float32 first, torch's type of computation, as `read` does.
    """
    short = exact.float()
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    least = float(exact.abs().min()) if exact.numel() else 0.0
    # Numbers that float32 cannot hold stay: products of others are claimed not to underflow.
    fits = _ordinary(largest) and _ordinary(least)
    if dtype == "float64" or not fits:
        return computed(name, exact)
    if torch.equal(short.double(), exact):
        return computed(name, short)
    return Constant(
        name=name,
        shape=tuple(exact.shape),
        dtype="float32",
        read=lambda: short,
        unrounded=lambda: exact,
    )


def _ordinary(size: float) -> bool:
    limits = torch.finfo(torch.float32)
    return size == 0.0 or math.isinf(size) or limits.tiny <= size <= limits.max


def parameter(build: GraphBuilder, name: str) -> Constant | None:
    """Return the constant behind a name, None when it is an edge."""
    return build.lookup(name) if name else None
