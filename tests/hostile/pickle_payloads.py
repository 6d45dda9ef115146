"""Pickles made to run code: by every name that is known to be used for it, in every layout.

Where the call takes a command it makes the marker file, so that a loader that runs it is seen.
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from tests.hostile.case import MARKER, Hostile
from tests.hostile.pickling import (
    FOUR,
    STOP,
    Call,
    Name,
    Raw,
    archive,
    checkpoint,
    opcodes,
    program,
    tensor,
    touches,
)
from tests.hostile.zip_building import write

_WORD = "LIP005"
SHELL = (
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"),
    ("subprocess", "getoutput"), ("subprocess", "check_output"), ("commands", "getoutput"),
    ("pty", "spawn"), ("platform", "popen"), ("torch.utils.collect_env", "run"),
)  # fmt: skip
CODE = (
    ("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "eval"), ("builtins", "compile"),
    ("builtins", "__import__"), ("code", "InteractiveInterpreter"), ("timeit", "timeit"),
    ("cProfile", "run"), ("bdb", "Bdb.run"), ("pdb", "run"),
    ("numpy.testing._private.utils", "runstring"), ("numpy.f2py.crackfortran", "myeval"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper"),
)  # fmt: skip
OTHERS = (
    ("runpy", "run_path"), ("runpy", "_run_code"), ("webbrowser", "open"), ("ctypes", "CDLL"),
    ("importlib", "import_module"), ("builtins", "getattr"), ("builtins", "open"), ("io", "open"),
    ("shutil", "rmtree"), ("socket", "create_connection"), ("urllib.request", "urlopen"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"), ("torch.ops", "load_library"),
    ("torch.package", "PackageImporter"), ("torch.utils.cpp_extension", "load_inline"),
    ("torch.storage", "_load_from_bytes"), ("numpy", "load"), ("pickle", "loads"),
    ("_pickle", "loads"), ("dill", "loads"), ("joblib", "load"), ("marshal", "loads"),
    ("types", "FunctionType"), ("functools", "partial"), ("operator", "attrgetter"),
    ("operator", "methodcaller"), ("asyncio", "run"), ("pip", "main"), ("sys", "exit"),
    ("torch._inductor.codecache", "PyCodeCache.load"), ("torch.distributed.rpc", "rpc_sync"),
)  # fmt: skip
REACHED = (
    ("torch.serialization", "os.system"), ("torch", "sys.exit"), ("random", "_os.system"),
    ("collections", "OrderedDict.__init__.__globals__"), ("torch.nn", "Module.__class__.__base__"),
    ("logging", "os"), ("mine", "helpers.subprocess.run"),
)  # fmt: skip
"""Names that lead through the attributes of honest modules."""


def _calling(names: tuple[tuple[str, str], ...], argument: Callable[[Path], str]) -> list[Hostile]:
    def case(module: str, name: str) -> Hostile:
        def build(folder: Path) -> Path:
            call = Call(Name(module, name), (argument(folder),))
            return checkpoint(folder, {"fc.weight": tensor(), "extra": call})

        title = f"payload-{module}-{name}".replace(".", "-").replace("_", "-").lower()
        says = (_WORD, f"calls {module}.{name}"[:40], "fc")
        return Hostile(title, f"a call of {module}.{name}", build, 1, says, plain="torch")

    return [case(module, name) for module, name in names]


def _by_protocol(protocol: int) -> Hostile:
    def build(folder: Path) -> Path:
        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                import os  # noqa: PLC0415 - what attackers do

                return os.system, (f"touch {folder / MARKER}",)

        torch.save(
            {"fc.weight": torch.eye(2), "extra": Payload()},
            folder / "m.pt",
            pickle_protocol=protocol,
        )
        return folder / "m.pt"

    return Hostile(f"payload-protocol-{protocol}", f"os.system in a pickle of protocol {protocol}",
                   build, 1, (_WORD, "posix.system", "fc"), plain="torch")  # fmt: skip


def _legacy(folder: Path) -> Path:
    path = folder / "m.pt"
    torch.save({"fc.weight": torch.eye(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    # The value is the fourth pickle: a payload goes in front of its entry.
    entry = data.index(b"X\x09\x00\x00\x00fc.weight")
    extra = opcodes("extra") + opcodes(touches(folder)) + b"s"
    return write(folder, data[:entry] + extra + data[entry:])


def _plain_pickle(protocol: int) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return exec, (f"open({str(folder / MARKER)!r}, 'w')",)

        return write(folder, pickle.dumps(Payload(), protocol=protocol), "m.pkl")

    return build


def _stacked(folder: Path) -> Path:
    def text(word: str) -> bytes:
        return b"\x8c" + bytes([len(word)]) + word.encode()

    command = f"touch {folder / MARKER}"
    call = text("os") + text("system") + b"\x93" + opcodes((command,)) + b"R"
    value = b"}(" + opcodes("fc.weight") + opcodes(tensor()) + opcodes("extra") + call + b"u"
    return archive(folder, b"\x80\x04" + value + STOP, {"0": FOUR})


def _as_weight(folder: Path) -> Path:
    evil = Call(Name("os", "_rebuild_tensor_v2"), tensor().args)
    return checkpoint(folder, {"fc.weight": tensor(), "evil.weight": evil})


def _in_identity(folder: Path) -> Path:
    """Return a persistent identity whose location is a call."""
    code = opcodes(("storage", Name("torch", "FloatStorage"), "0", touches(folder), 4)) + b"Q"
    return checkpoint(folder, {"fc.weight": tensor(of=Raw(code))})


def _in_state(folder: Path) -> Path:
    state = Call(Name("mine", "Config"), (), {"hook": touches(folder)})
    return checkpoint(folder, {"fc.weight": tensor(), "config": state})


def _in_hooks(folder: Path) -> Path:
    args = tensor().args
    hooked = Call(
        Name("torch._utils", "_rebuild_tensor_v2"),
        (*args[:5], touches(folder)) if isinstance(args, tuple) else (),
    )
    return checkpoint(folder, {"fc.weight": hooked})


def _dropped(folder: Path) -> Path:
    """Return a call whose result is thrown away: it was made all the same."""
    code = opcodes(touches(folder)) + b"0" + opcodes({"fc.weight": tensor()})
    return archive(folder, program(Raw(code)), {"0": FOUR})


def _then_broken(folder: Path) -> Path:
    code = b"\x80\x02" + opcodes(touches(folder)) + b"\xff"
    return archive(folder, code, {"0": FOUR})


def _behind_stop(folder: Path) -> Path:
    """Return a second pickle behind the first: no reader goes there."""
    whole = program({"fc.weight": tensor()}) + program(touches(folder))
    return archive(folder, whole, {"0": FOUR})


def _clip(folder: Path) -> Path:
    return checkpoint(folder, {"fc.weight": tensor(), "extra": touches(folder)})


def _nested_archive(folder: Path) -> Path:
    inner = io.BytesIO(program(touches(folder)))
    call = Call(Name("torch.storage", "_load_from_bytes"), (inner.getvalue(),))
    return checkpoint(folder, {"fc.weight": tensor(), "extra": call})


def _dotted(folder: Path) -> Path:
    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    name = text("torch.serialization") + text("os.system") + b"\x93"
    call = Raw(name + opcodes((f"touch {folder / MARKER}",)) + b"R")
    return checkpoint(folder, {"fc.weight": tensor(), "extra": call})


_RUNS = (_WORD, "os.system", "fc")
CASES = (
    Hostile("payload-zip", "`os.system` REDUCE", _clip, 1, (*_RUNS, "fc"), row=12, plain="torch"),
    Hostile("payload-legacy", "`os.system` REDUCE, legacy layout", _legacy, 1, _RUNS, row=12,
            plain="torch"),
    *(_by_protocol(protocol) for protocol in (2, 3, 4, 5)),
    *_calling(SHELL, lambda folder: f"touch {folder / MARKER}"),
    *_calling(CODE, lambda folder: f"open({str(folder / MARKER)!r}, 'w')"),
    *_calling(OTHERS, lambda folder: str(folder / "nothing")),
    *_calling(REACHED, lambda folder: f"touch {folder / MARKER}"),
    Hostile("payload-stack-global", "STACK_GLOBAL of protocol 4", _stacked, 1, _RUNS,
            plain="torch"),
    Hostile("payload-dotted", "os.system through torch.serialization", _dotted, 1, _RUNS,
            plain="torch"),
    Hostile("payload-as-weight", "a function of os called _rebuild_tensor_v2", _as_weight, 1,
            (_WORD, "os._rebuild_tensor_v2"), plain="torch"),
    Hostile("payload-identity", "a call in a persistent identity", _in_identity, 1, _RUNS,
            plain="torch"),
    Hostile("payload-state", "a call in an object's state", _in_state, 1, _RUNS, plain="torch"),
    Hostile("payload-hooks", "a call in the place of a tensor's hooks", _in_hooks, 1, _RUNS,
            plain="torch"),
    Hostile("payload-dropped", "a call whose result is thrown away", _dropped, 1, _RUNS,
            plain="torch"),
    Hostile("payload-nested", "a pickle that loads another one", _nested_archive, 1,
            (_WORD, "_load_from_bytes"), plain="torch"),
    Hostile("payload-then-broken", "a call, and then no pickle any more", _then_broken, 2,
            ("opcode 0xff",), plain="torch"),
    Hostile("payload-behind-stop", "a second pickle behind the first", _behind_stop, 0, ("fc",),
            plain="torch"),
    Hostile("payload-clip", "a payload in a file to be clipped", _clip, 2,
            ("made to run code",), command=("clip",), options=("--to", "1", "-o", "out.pt")),
    *(
        Hostile(f"payload-plain-pickle-{protocol}", f"a bare pickle of protocol {protocol}",
                _plain_pickle(protocol), 2, ("not a known model format",), plain="torch")
        for protocol in range(6)
    ),
)  # fmt: skip
