"""No command opens a socket, in Python or below it; and the suite itself is cut off."""

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipaudit.cli import app
from tests import offline

ROOT = Path(__file__).resolve().parents[1]
_TRANSFORMERS = find_spec("transformers") is not None

# Ends the process at the first socket of any family but AF_UNIX, whatever library asks for it:
# https://docs.kernel.org/userspace-api/seccomp_filter.html
_SEAL = """
import ctypes, platform, struct
NUMBERS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}

def seal():
    if platform.machine() not in NUMBERS:
        return False
    machine, number = NUMBERS[platform.machine()]
    load, equal, end = 0x20, 0x15, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    program = [
        (load, 0, 0, 4), (equal, 0, 4, machine),
        (load, 0, 0, 0), (equal, 0, 2, number),
        (load, 0, 0, 16), (equal, 0, 1, 1),
        (end, 0, 0, allow), (end, 0, 0, kill),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code)
    place = ctypes.addressof(held)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), place))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter = 38, 22
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return not libc.prctl(set_filter, 2, header, 0, 0)
"""

_RUN = """
import contextlib, io, json, sys
sealed = seal()
events = []
sys.addaudithook(lambda name, details: events.append(name) if name.startswith("socket.") else None)
from lipaudit.__main__ import _run
found = []
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["lipaudit", *arguments]
    events.clear()
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = _run()
    found.append([arguments, code, list(events), said.getvalue()])
json.dump({"sealed": sealed, "found": found}, sys.stdout)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    torch.save(net, tmp_path / "net.pt")
    if _TRANSFORMERS:
        transformers: Any = importlib.import_module("transformers")
        sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 8}
        made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        made.save_pretrained(tmp_path / "hf")
    config = 'max-bound = 1000\n[[models]]\npath = "net.pt"\n'
    (tmp_path / "lipaudit.toml").write_text(config, encoding="utf-8")
    return tmp_path


def lines(folder: Path) -> list[list[str]]:
    net, out = str(folder / "net.pt"), str(folder / "out.pt")
    every = [f"--report={name}={folder / name}.txt" for name in ("json", "sarif", "html", "junit")]
    return [
        ["--help"],
        ["--version"],
        ["inspect", net, "--workers=2", "--no-cache"],
        *[["inspect", net, f"--cache={folder / 'cache'}"]] * 2,
        *([["inspect", str(folder / "hf"), "--hf"]] if _TRANSFORMERS else []),
        ["inspect", net, *every, f"--plots={folder / 'plots'}", f"--export={folder / 's.npz'}"],
        ["bound", net, "--input-radius=1", "--executed=float32"],
        ["clip", net, "--to=0.5", f"--output={out}"],
        ["check", f"--config={folder / 'lipaudit.toml'}"],
        ["diff", net, out],
        ["explain", "LIP001"],
        ["rules"],
        ["schema"],
        ["cache", "show"],
        ["doctor"],
    ]


def run(code: str, text: str = "") -> subprocess.CompletedProcess[str]:
    # Without the refusal of the suite: what a command does by itself is to be seen.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-c", code],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the seal is Linux's")
def test_no_command_opens_a_socket(folder: Path) -> None:
    work = lines(folder)
    names = {command.name or command.callback.__name__ for command in app.registered_commands
             if command.callback}  # fmt: skip
    assert names <= {line[0] for line in work}, "every command is here"
    done = run(_SEAL + _RUN, json.dumps(work))
    assert done.returncode == 0, (done.returncode, done.stderr)
    report = json.loads(done.stdout)
    for arguments, code, events, said in report["found"]:
        assert code in {0, 1}, (arguments, said)
        assert events == [], arguments
    if not report["sealed"]:
        pytest.skip("seen in Python only: the system has no such filter")


@pytest.mark.skipif(sys.platform != "linux", reason="the seal is Linux's")
def test_the_seal_ends_a_process_that_opens_a_socket() -> None:
    """Or else the test above would prove nothing."""
    done = run(_SEAL + "\nif not seal(): raise SystemExit(3)\nimport socket; socket.socket()")
    if done.returncode == 3:
        pytest.skip("the system has no such filter")
    assert done.returncode < 0


def test_the_suite_reaches_no_network() -> None:
    # Python's own start imports the same file under another name, and its hook comes first.
    used_names = ("sitecustomize", "tests.offline.sitecustomize")
    refused = tuple(sys.modules[name].NetworkUsed for name in used_names if name in sys.modules)
    with socket.socket() as used, pytest.raises(refused):
        used.connect(("192.0.2.1", 80))
    for host in ("192.0.2.1", "example.org"):
        with pytest.raises(refused):
            socket.getaddrinfo(host, 80)
        with pytest.raises(refused):
            socket.create_connection((host, 80), timeout=1)


@pytest.mark.parametrize("environment", [os.environ, {"PYTHONPATH": offline.PATH}])
def test_what_the_suite_starts_reaches_none_either(environment: Mapping[str, str]) -> None:
    code = "import lipaudit, socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert "NetworkUsed" in done.stderr


OPEN = {"test_no_network.py", "test_cluster.py", "schedulers.py", "offline/__init__.py"}
"""Where a process is started without the refusal, on purpose, or it is made."""


def test_nothing_is_started_that_is_not_cut_off() -> None:
    """A path of its own drops the folder that refuses; only some systems have the empty network."""
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        if not str(path).endswith(tuple(OPEN)):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert "PYTHONPATH" not in line or "offline.PATH" in line, (path, number)


def test_this_machine_itself_can_be_reached() -> None:
    """The browser of the tests is, and workers that share a search."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.sendall(b"x")
        peer, _ = server.accept()
        with peer:
            assert peer.recv(1) == b"x"
