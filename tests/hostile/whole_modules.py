"""TorchScript archives, pickled modules and Lightning checkpoints."""

import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.hostile.case import Hostile
from tests.hostile.pickling import (
    Call,
    Name,
    Raw,
    checkpoint,
    opcodes,
    program,
    tensor,
    touches,
)
from tests.hostile.zip_building import write


class Own(nn.Module):
    """A class with forward code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)


def _script(folder: Path) -> Path:
    torch.manual_seed(0)
    made = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    torch.jit.save(made, folder / "m.pt")
    return folder / "m.pt"


def _script_with(change: Callable[[str, bytes], bytes | None]) -> Callable[[Path], Path]:
    """Return a builder of a TorchScript archive some of whose members are other ones."""

    def build(folder: Path) -> Path:
        path = _script(folder)
        with zipfile.ZipFile(path) as old:
            members = [(info, old.read(info)) for info in old.infolist()]
        with zipfile.ZipFile(path, "w") as new:
            for info, data in members:
                content = change(info.filename, data)
                if content is not None:
                    new.writestr(info.filename, content, compress_type=info.compress_type)
        return path

    return build


def _saved(made: Callable[[], object], name: str = "m.pt") -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        torch.manual_seed(0)
        torch.save(made(), folder / name)
        return folder / name

    return build


def _lightning() -> object:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return {
        "epoch": 3,
        "state_dict": OrderedDict((f"net.{k}", v) for k, v in net.state_dict().items()),
        "optimizer_states": [{"state": {0: torch.zeros(2)}}],
        "hyper_parameters": Namespace(lr=0.1, path=Path("/data")),
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}},
    }


def _lightning_payload(folder: Path) -> Path:
    value = {"state_dict": {"fc.weight": tensor()}, "hyper_parameters": touches(folder)}
    return checkpoint(folder, value)


def module(kind: str, fields: dict[str, object], children: dict[str, object] | None = None) -> Call:
    """Return a pickled module of a class by name."""
    home, _, name = kind.rpartition(".")
    state = {
        "training": False, "_buffers": {}, "_modules": children or {}, "_parameters": {}, **fields
    }  # fmt: skip
    return Call(Name(home, name), (), state)


def _module(value: object) -> Callable[[Path], Path]:
    return lambda folder: checkpoint(folder, value)


_LINEAR = "torch.nn.modules.linear.Linear"
_CONV = "torch.nn.modules.conv.Conv2d"
_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_LAYER: dict[str, object] = {"_parameters": {"weight": tensor()}}


def _in_sequential(name: str, what: str, kind: str, fields: dict[str, object], *says: str,
                   code: int = 3) -> Hostile:  # fmt: skip
    """Return a case of a Sequential with one strange child."""
    value = module(_SEQUENTIAL, {}, {"0": module(_LINEAR, _LAYER), "1": module(kind, fields)})
    return Hostile(f"module-{name}", what, _module(value), code, says, row=17, command=("bound",),
                   plain="torch")  # fmt: skip


def _conv(**fields: object) -> dict[str, object]:
    weight = tensor((1, 1, 2, 2), (4, 4, 2, 1))
    good: dict[str, object] = {
        "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1,
        "padding_mode": "zeros", "_parameters": {"weight": weight},
    }  # fmt: skip
    return {**good, **fields}


CONVOLUTIONS: dict[str, dict[str, object]] = {
    "stride-zero": {"stride": (0, 0)},
    "stride-negative": {"stride": (-1, -1)},
    "stride-text": {"stride": "1"},
    "stride-huge": {"stride": (1 << 62, 1)},
    "stride-past-torch": {"stride": (1 << 70, 1)},
    "stride-digits": {"stride": (1 << 8_000, 1)},
    "dilation-digits": {"dilation": (1 << 8_000, 1)},
    "padding-digits": {"padding": (1 << 8_000, 1)},
    "groups-digits": {"groups": 1 << 8_000},
    "dilation-zero": {"dilation": (0, 0)},
    "padding-negative": {"padding": (-1, -1)},
    "padding-huge": {"padding": (1 << 40, 1 << 40)},
    "padding-word": {"padding": "magic"},
    "padding-same-text": {"padding": "same", "dilation": "x"},
    "padding-mode": {"padding_mode": "magic"},
    "groups-zero": {"groups": 0},
    "groups-negative": {"groups": -1},
    "groups-many": {"groups": 7},
    "groups-text": {"groups": "1"},
}


BOUNDED = ("stride-huge",)
"""Nothing contradicts it, and a norm for every input size holds for it as well. No input is found
that could be padded by 2^40."""


def _strange_convolution(name: str, fields: dict[str, object]) -> Hostile:
    value = module(_CONV, _conv(**fields))
    wrapped = module(_SEQUENTIAL, {}, {"0": value})
    code, says = (0, "proved") if name in BOUNDED else (3, "not certified")
    return Hostile(f"module-conv-{name}", f"a convolution of {name}", _module(wrapped), code,
                   (says,), command=("bound",), plain="torch")  # fmt: skip


def _cycle(folder: Path) -> Path:
    """Return a module that is its own child."""
    code = opcodes(Name("mine", "Net")) + b")Rq\x05" + opcodes(
        {"_parameters": {"weight": tensor()}, "_modules": {"me": Raw(b"h\x05")}}
    ) + b"b"  # fmt: skip
    return checkpoint(folder, Raw(code))


def _other_class(folder: Path) -> Path:
    """Return a module of a class whose home is the shell."""
    return checkpoint(folder, module("os.system", _LAYER))


CASES = (
    Hostile("torchscript", "TorchScript archive", _script, 3,
            ("2 layers measured", "TorchScript graph not read; export to .pt2 or ONNX"), row=15,
            command=("bound",), plain="torchscript"),
    Hostile("torchscript-inspect", "TorchScript archive, its layers", _script, 0, ("0", "2"),
            row=15, plain="torchscript"),
    Hostile("torchscript-no-code", "TorchScript without its code",
            _script_with(lambda n, d: None if "/code/" in n else d), 0, ("2 layers measured",),
            plain="torchscript"),
    Hostile("torchscript-cut-pickle", "TorchScript with half a data.pkl",
            _script_with(lambda n, d: d[: len(d) // 2] if n.endswith("data.pkl") else d), 2,
            ("pickle",), plain="torchscript"),
    Hostile("torchscript-short-data", "TorchScript with a short weight",
            _script_with(lambda n, d: d[:4] if n.endswith("data/0") else d), 2,
            ("data/0 has 4 bytes",), plain="torchscript"),
    Hostile("torchscript-bad-code", "TorchScript whose code is no code",
            _script_with(lambda n, d: b"import os" if n.endswith(".py") else d), 0,
            ("2 layers measured",), plain="torchscript"),
    Hostile("lightning", "Lightning .ckpt with Namespace", _saved(_lightning, "m.ckpt"), 0,
            ("argparse.Namespace", "optimizer_states", "net.0", "net.2"), row=16, plain="torch"),
    Hostile("lightning-payload", "Lightning .ckpt with a call in its hyper_parameters",
            _lightning_payload, 1, ("LIP005", "os.system", "fc"), plain="torch"),
    Hostile("module-own", "whole pickled nn.Module", _saved(Own), 3,
            ("the forward code of", "not certified"), row=17, command=("bound",),
            plain="torch"),
    Hostile("module-own-inspect", "whole pickled nn.Module, its layers", _saved(Own), 0,
            ("conv", "Conv2d"), row=17, plain="torch"),
    Hostile("module-sequential", "whole pickled nn.Sequential",
            _saved(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), 0,
            ("proved",), row=17, command=("bound",), plain="torch"),
    Hostile("module-cycle", "a module that is its own child", _cycle, 0, ("mine.Net",),
            plain="torch"),
    Hostile("module-in-os", "a module of class os.system", _other_class, 1, ("LIP005",),
            plain="torch"),
    Hostile("module-state-text", "a module whose state is a text",
            lambda folder: checkpoint(folder, Call(Name("mine", "Net"), (), "state")), 2,
            ("no weight tensors found",), plain="torch"),
    Hostile("module-children-list", "a module whose children are a list",
            _module(module("mine.Net", {"_modules": [1], "_parameters": {"w": tensor()}})), 0,
            ("mine.Net",), plain="torch"),
    Hostile("module-parameters-text", "a module whose parameters are a text",
            _module(module("mine.Net", {"_parameters": "weights"})), 0, ("mine.Net",),
            plain="torch"),
    Hostile("module-pickle-only", "a bare pickle of a module",
            lambda folder: write(folder, program(module(_LINEAR, _LAYER))), 2,
            ("not a known model format",), plain="torch"),
    _in_sequential("unknown", "a Sequential with an unknown class", "mine.Layer", {}, "Layer"),
    _in_sequential("no-weight", "a Linear without weight", _LINEAR, {}, "Linear"),
    _in_sequential("slope-nan", "LeakyReLU of slope NaN", "torch.nn.modules.activation.LeakyReLU",
                   {"negative_slope": float("nan")}, "not certified"),
    _in_sequential("slope-text", "LeakyReLU of slope 'x'", "torch.nn.modules.activation.LeakyReLU",
                   {"negative_slope": "x"}, "not certified"),
    _in_sequential("slope-huge", "LeakyReLU of slope 2^3000",
                   "torch.nn.modules.activation.LeakyReLU", {"negative_slope": 1 << 3000},
                   "not certified"),
    *(_strange_convolution(name, fields) for name, fields in CONVOLUTIONS.items()),
)  # fmt: skip
