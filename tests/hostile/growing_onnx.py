"""ONNX files of n things: nodes, names, functions, weights."""

from collections.abc import Callable
from pathlib import Path

from tests.hostile.growth import Growth, of
from tests.hostile.onnx_wire import (
    NODE,
    OPSET,
    RAW,
    field,
    graph,
    model,
    number,
    tensor,
    value,
    varint,
)
from tests.hostile.written import VALUES

_W = tensor(RAW)


def _node(
    kind: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    name: str = "",
    *,
    more: bytes = b"",
    domain: str = "",
) -> bytes:
    parts = b"".join(field(1, one) for one in inputs) + b"".join(field(2, one) for one in outputs)
    return field(1, parts + field(3, name) + field(4, kind) + more + field(7, domain))


def _chain(count: int, kind: str = "Relu", *, name: str = "") -> list[bytes]:
    """Return n nodes one after the other, from x to y."""
    steps = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    return [_node(kind, (steps[at],), (steps[at + 1],), name) for at in range(count)]


def _growth(name: str, made: Callable[[int], bytes], count: int) -> Growth:
    return Growth(f"onnx-{name}", of("m.onnx", made), count)


def _nodes(nodes: list[bytes], *weights: bytes, more: bytes = b"", tail: bytes = OPSET) -> bytes:
    body = graph(*(weights or (_W,)), nodes=NODE.replace(b"y", b"h") + b"".join(nodes), more=more)
    return model(body, tail=tail)


def _layers(count: int) -> list[bytes]:
    steps = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    return [_node("MatMul", (steps[at], "W"), (steps[at + 1],), f"l{at}") for at in range(count)]


def _residuals(count: int) -> list[bytes]:
    """Return n times t = relu(s) + s."""
    steps = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    return [
        part
        for at in range(count)
        for part in (
            _node("Relu", (steps[at],), (f"r{at}",)),
            _node("Add", (steps[at], f"r{at}"), (steps[at + 1],)),
        )
    ]


def _wide(count: int) -> list[bytes]:
    """Return n nodes of one value, and one node of all of them."""
    names = tuple(f"t{at}" for at in range(count))
    return [*(_node("Relu", ("x",), (name,)) for name in names), _node("Sum", names, ("y",))]


def _split(count: int) -> list[bytes]:
    names = tuple(f"t{at}" for at in range(count))
    split = _node("Split", ("x",), names, more=_integer("axis", 1) + _integer("num_outputs", 2))
    return [split, _node("Concat", names, ("y",), more=_integer("axis", 1))]


def _integer(name: str, held: int) -> bytes:
    return field(5, field(1, name) + number(3, held) + number(20, 2))


def _integers(name: str, count: int) -> bytes:
    packed = b"".join(varint(1) for _ in range(count))
    return field(5, field(1, name) + field(8, packed) + number(20, 7))


def _constants(count: int) -> list[bytes]:
    held = field(5, field(1, "value") + field(5, _W) + number(20, 4))
    made = [_node("Constant", (), (f"c{at}",), more=held) for at in range(count)]
    steps = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    return made + [_node("MatMul", (steps[at], f"c{at}"), (steps[at + 1],)) for at in range(count)]


def _function(name: str, inner: bytes) -> bytes:
    return field(25, field(1, name) + field(4, "a") + field(5, "r")
                 + inner.replace(b"\x0a", b"\x3a", 1) + field(9, number(2, 17))
                 + field(10, "local"))  # fmt: skip


def _functions(count: int) -> bytes:
    made = b"".join(_function(f"F{at}", _node("Relu", ("a",), ("r",))) for at in range(count))
    tail = OPSET + field(8, field(1, "local") + number(2, 1)) + made
    return _nodes([_node("F0", ("x",), ("y",), domain="local")], tail=tail)


def _called(count: int) -> bytes:
    """Return one function that is called n times."""
    steps = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    tail = OPSET + field(8, field(1, "local") + number(2, 1))
    tail += _function("F", _node("Relu", ("a",), ("r",)))
    calls = [_node("F", (steps[at],), (steps[at + 1],), domain="local") for at in range(count)]
    return _nodes(calls, tail=tail)


def _branches(count: int) -> list[bytes]:
    """Return n times if."""
    part = _node("Relu", ("x",), ("b",)) + field(2, "g") + field(12, value("b", 1, 2))
    held = b"".join(
        field(5, field(1, name) + field(6, part) + number(20, 5))
        for name in ("then_branch", "else_branch")
    )
    names = tuple(f"t{at}" for at in range(count))
    return [_node("Cast", ("x",), ("f",), more=_integer("to", 9)),
            _node("ReduceMax", ("f",), ("c",), more=_integer("keepdims", 0)),
            *(_node("If", ("c",), (name,), more=held) for name in names),
            _node("Sum", names, ("y",))]  # fmt: skip


def _weights(count: int) -> bytes:
    stored = [tensor(RAW, name=f"w{at}") for at in range(count)]
    return _nodes([_node("Relu", ("x",), ("y",))], _W, *stored)


def _external(folder: Path, count: int) -> Path:
    """Write n weights that lie in n files."""
    stored = []
    for at in range(count):
        (folder / f"w{at}.bin").write_bytes(VALUES)
        said = field(13, field(1, "location") + field(2, f"w{at}.bin"))
        stored.append(tensor(said, number(14, 1), name=f"w{at}"))
    path = folder / "m.onnx"
    path.write_bytes(_nodes([_node("Relu", ("x",), ("y",))], _W, *stored))
    return path


def _pieces(count: int) -> bytes:
    """Return a weight whose values come in n fields."""
    values = b"".join(field(4, b"\0\0\x80?") for _ in range(2 * count))
    return model(graph(tensor(values, dims=number(1, 2) + number(1, count))))


CASES: tuple[Growth, ...] = (
    _growth("chain", lambda n: _nodes(_chain(n)), 500),
    _growth("chain-reversed", lambda n: _nodes(_chain(n)[::-1]), 500),
    _growth("chain-of-identities", lambda n: _nodes(_chain(n, "Identity")), 2_000),
    _growth("names-alike", lambda n: _nodes(_chain(n, name="same")), 500),
    _growth("unknown", lambda n: _nodes(_chain(n, "Strange")), 1_000),
    _growth("layers", lambda n: _nodes(_layers(n)), 200),
    _growth("residuals", lambda n: _nodes(_residuals(n)), 200),
    _growth("wide", lambda n: _nodes(_wide(n)), 500),
    _growth("split", lambda n: _nodes(_split(n)), 2_000),
    _growth("constants", lambda n: _nodes(_constants(n)), 200),
    _growth("weights", _weights, 3_000),
    _growth("integers", lambda n: _nodes([
        _node("Relu", ("x",), ("y",), more=_integers("p", n))]), 100_000),
    _growth("attributes", lambda n: _nodes([_node("Relu", ("x",), ("y",), more=b"".join(
        _integer(f"a{at}", 1) for at in range(n)))]), 5_000),
    _growth("opsets", lambda n: _nodes(_chain(1), tail=b"".join(
        field(8, field(1, f"d{at}") + number(2, 1)) for at in range(n)) + OPSET), 10_000),
    _growth("opsets-alike", lambda n: _nodes(_chain(1), tail=OPSET * n), 10_000),
    _growth("metadata", lambda n: _nodes(_chain(1), tail=OPSET + b"".join(
        field(14, field(1, f"k{at}") + field(2, "v")) for at in range(n))), 10_000),
    _growth("functions", _functions, 2_000),
    _growth("calls", _called, 400),
    _growth("branches", lambda n: _nodes(_branches(n)), 200),
    _growth("inputs", lambda n: _nodes(_chain(1), more=b"".join(
        field(11, value(f"i{at}", 1, 2)) for at in range(n))), 3_000),
    _growth("outputs", lambda n: _nodes(_chain(n), more=b"".join(
        field(12, value(f"t{at}", 1, 2)) for at in range(n - 1))), 500),
    _growth("dimensions", lambda n: model(graph(tensor(RAW, dims=number(1, 1) * n))), 50_000),
    _growth("dimensions-of-input", lambda n: model(graph(_W, ends=field(
        11, value("x", *([1] * n))) + field(12, value("y", 1, 2)))), 10_000),
    _growth("pieces", _pieces, 20_000),
    _growth("name-of-slashes", lambda n: _nodes(_chain(1, name="/" * n)), 250_000),
    _growth("name-of-dots", lambda n: _nodes(_chain(1, name="." * n)), 250_000),
    Growth("onnx-external-files", _external, 200),
)  # fmt: skip
