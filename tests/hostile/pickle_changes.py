"""Tensors that a pickle changes after it has rebuilt them, or keeps where no name leads to them.

torch obeys, also in its restricted loader: what it loads is then not what the call alone says.
"""

import struct
from pathlib import Path

from tests.hostile.case import Hostile
from tests.hostile.pickling import (
    FOUR,
    HOOKS,
    Away,
    Call,
    Name,
    Raw,
    checkpoint,
    opcodes,
    storage,
    tensor,
)
from tests.hostile.whole_modules import module

_DATA = {"0": FOUR, "1": struct.pack("<4f", 1000.0, 0.0, 0.0, 2000.0)}
_OTHER = tensor(of=storage(key="1"))
_PARAMETER = Name("torch.nn.parameter", "Parameter")
_ORDERED = Name("collections", "OrderedDict")
_WITH_STATE = Name("torch._utils", "_rebuild_parameter_with_state")
_TYPED = Name("torch._tensor", "_rebuild_from_type_v2")


def _case(
    name: str, what: str, value: object, code: int, *says: str, command: tuple[str, ...] = ()
) -> Hostile:
    def build(folder: Path) -> Path:
        return checkpoint(folder, value, _DATA)

    return Hostile(f"change-{name}", what, build, code, says, command=command or ("inspect",),
                   plain="torch")  # fmt: skip


def _refused(name: str, what: str, value: object, *says: str) -> Hostile:
    return _case(name, what, {"fc.weight": value}, 2, *(says or ("after it was rebuilt",)))


def _hidden(name: str, what: str, value: object, *says: str) -> Hostile:
    """Return a case of a second weight that is in no layer."""
    entries = {"fc.weight": tensor(), "out.weight": value}
    return _case(name, what, entries, 3, "hidden-tensor", "out.weight", *says)


def _built(value: object, state: object) -> Raw:
    return Raw(opcodes(value) + opcodes(state) + b"b")


def _window(key: str = "1") -> tuple[object, ...]:
    return (storage(key=key), 0, (2, 2), (2, 1))


def _with_state(state: object) -> Call:
    return Call(_WITH_STATE, (tensor(), False, HOOKS, state))


def _typed(state: object) -> Call:
    inner = tensor()
    return Call(_TYPED, (inner.made_by, Name("torch", "Tensor"), inner.args, state))


def _alias() -> object:
    """Return a tensor whose values are exchanged by a call whose result is dropped."""
    passing = Name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")
    same = (Raw(b"h\xff"), Name("torch", "float32"), "cpu", False)
    call = Call(_TYPED, (passing, Name("torch", "Tensor"), same, {"data": _OTHER}))
    return Raw(opcodes(tensor()) + b"q\xff" + opcodes(call) + b"0")


def _grown_pairs() -> object:
    """Return a dictionary whose list of pairs gets another one after it was made of it."""
    made = opcodes(_ORDERED) + opcodes([("weight", tensor())]) + b"q\xff\x85R"
    return [Raw(made), Raw(b"h\xff" + opcodes(("weight", _OTHER)) + b"a")]


_PARAMETER_MADE = Call(_PARAMETER, (tensor(), False))
CASES = (
    _refused("build", "BUILD of a tensor with another storage", _built(tensor(), _window())),
    _refused("build-dropped", "BUILD of a tensor that is then dropped",
             Raw(opcodes(_built(tensor(), _window())) + b"0" + opcodes(tensor()))),
    _refused("build-parameter", "BUILD of a parameter with other data",
             _built(_PARAMETER_MADE, (_OTHER, None, HOOKS, False, False))),
    _refused("build-twice", "a second BUILD that looks honest",
             _built(_built(_PARAMETER_MADE, (_OTHER, None, HOOKS, False, False)),
                    (False, False, HOOKS)), "a second state"),
    _refused("set-item", "SETITEM on a tensor",
             Raw(opcodes(tensor()) + b"K\x00G" + bytes(8) + b"s")),
    _refused("set-items", "SETITEMS on a tensor",
             Raw(opcodes(tensor()) + b"(K\x00G" + bytes(8) + b"u")),
    _refused("append", "APPEND to a tensor", Raw(opcodes(tensor()) + b"Na")),
    _refused("attribute-data", "a parameter whose attribute `data` is another",
             _with_state({"data": _OTHER}), "has its data overwritten"),
    _refused("attribute-slots", "the same in its slots", _with_state((None, {"data": _OTHER})),
             "has its data overwritten"),
    _refused("attribute-object", "a parameter whose attributes are an object",
             _with_state(Call(_ORDERED, ([("data", _OTHER)],))), "no table"),
    _refused("attribute-typed", "a tensor with attributes, `data` among them",
             _typed({"data": _OTHER}), "has its data overwritten"),
    _refused("attribute-later", "attributes to which `data` is added after they were set",
             [_with_state(Raw(b"}q\xff")),
              Raw(b"h\xff" + opcodes("data") + opcodes(_OTHER) + b"s")],
             "changed after a tensor was made"),
    _refused("attribute-alias", "`data` set by way of another tensor that is dropped", _alias(),
             "by way of another"),
    _refused("in-place", "torch.fill_ on a tensor, dropped",
             Raw(opcodes(tensor()) + b"q\xff" + opcodes(Call(Name("torch", "fill_"),
                 (Raw(b"h\xff"), 9))) + b"0"), "changed by fill_"),
    _refused("storage-two-types", "a storage that was of another type before, dropped",
             Raw(opcodes(storage("IntStorage")) + b"0" + opcodes(tensor())), "two things at once"),
    _refused("sizes-list", "sizes that are a list, which may grow", tensor([2, 2]),
             "size that is no number"),
    _case("meta", "a storage on the device meta", {"fc.weight": tensor(
        of=Away(("storage", Name("torch", "FloatStorage"), "0", "meta", 4)))}, 3, "meta tensor"),
    _case("pairs-grown", "pairs that are added after a dictionary was made of them",
          _grown_pairs(), 0, "weight", "2.0000", command=("inspect",)),
    _case("pairs-new", "pairs for a class that takes none", {"fc.weight": tensor(), "x": Raw(
        opcodes(_ORDERED) + opcodes(([("out.weight", _OTHER)],)) + b"\x81")}, 0, "fc"),
    _case("old-parameter", "a parameter as torch before 0.4 wrote it",
          {"fc.weight": _built(_PARAMETER_MADE, (True, False, HOOKS))}, 0, "fc"),
    _case("new-parameter", "a parameter by NEWOBJ", {"fc.weight": Raw(
        opcodes(_PARAMETER) + opcodes((tensor(), False)) + b"\x81")}, 0, "fc", "2x2"),
    _case("dictionary-of-dictionary", "an OrderedDict made of a dictionary",
          Call(_ORDERED, ({"fc.weight": tensor()},)), 0, "fc", "2x2"),
    _case("module-written", "an append to a module that is rebuilt", Raw(opcodes(module(
        "torch.nn.modules.container.Sequential", {})) + opcodes(tensor()) + b"a"), 2,
        "after it was rebuilt"),
    _hidden("counter", "a weight in a Counter",
            Call(Name("collections", "Counter"), ({"w": _OTHER},)), "collections.Counter"),
    _hidden("set", "a weight in a set", Call(Name("builtins", "set"), ([_OTHER],)), "set"),
    _hidden("tensor-class", "a weight made by torch.Tensor",
            Call(Name("torch", "Tensor"), (_OTHER,)), "torch.Tensor"),
    _hidden("tensor-numbers", "a weight made by torch.Tensor of numbers",
            Call(Name("torch", "Tensor"), ([[1.0, 2.0], [3.0, 4.0]],)), "torch.Tensor"),
    _hidden("tensor-storage", "a weight made by torch.FloatTensor of a storage",
            Call(Name("torch", "FloatTensor"), (storage(key="1"),)), "torch.FloatTensor"),
    _hidden("storage", "a storage without a tensor", storage(key="1")),
    _hidden("parameter-empty", "a parameter of nothing", Call(_PARAMETER, ())),
    _hidden("attribute", "a weight that is an attribute of a weight",
            _with_state({"mine": _OTHER})),
    _hidden("attribute-dictionary", "a weight that is an attribute of a dictionary",
            Call(_ORDERED, (), {"weight": _OTHER})),
    _hidden("key", "a weight that is a key", Raw(b"}" + opcodes(_OTHER) + b"Ns")),
    _hidden("object", "a weight in an object", Call(Name("mine", "Net"), (), {"w": _OTHER}),
            "mine.Net"),
    _case("hidden-bound", "a weight in a Counter beside a chain",
          {"fc.weight": tensor(), "x": Call(Name("collections", "Counter"), ({"w": _OTHER},))}, 3,
          "collections.Counter", "not certified", command=("bound",)),
    _case("hidden-in-module", "a parameter of a module that is in a Counter", module(
        "torch.nn.modules.linear.Linear", {"_parameters": {
            "weight": Call(Name("collections", "Counter"), ({"w": _OTHER},))}}), 3,
        "hidden-tensor", "weight"),
    _case("shared", "a weight in a Counter that is a layer elsewhere", {
        "fc.weight": Raw(opcodes(tensor()) + b"q\xff"),
        "x": Call(Name("collections", "Counter"), ({"w": Raw(b"h\xff")},))}, 0, "fc"),
)  # fmt: skip
