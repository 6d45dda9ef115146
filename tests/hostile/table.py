"""The table of bad inputs: what the plain loader does with each today, and what lipaudit does.

    python -m tests.hostile.table                  all of them, in Markdown
    python -m tests.hostile.table pt2-             those whose name holds the word

Every plain loader runs in a process of its own, with 6 GB of memory and 20 seconds.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lipaudit.report.text import safe, short
from tests import offline
from tests.commands import Commands, Done
from tests.hostile.case import MARKER, Hostile
from tests.hostile.families import ALL

_SECONDS = 20
_ADDRESSES = 6 << 30
_NOTEWORTHY = 500 << 20
"""Bytes of memory that are named in the table."""
_WORDS = 60
"""Characters of a message."""
LOADERS = {
    "torch": "torch.load(path, weights_only=True)",
    "torchscript": "torch.jit.load(path)",
    "export": "torch.export.load(path)",
    "safetensors": "safetensors.torch.load_file(path)",
    "onnx": "onnx.load(path)",
}
_PROGRAM = """
import os, sys, warnings
warnings.simplefilter("ignore")
path, kind = sys.argv[1:]
if kind == "safetensors":
    import safetensors.torch
elif kind == "onnx":
    import onnx
else:
    import torch
try:
    {call}
except BaseException as error:
    print(f"{{type(error).__name__}}: {{error}}".replace(chr(10), " "))
else:
    print("loads")
sys.stdout.flush()
os._exit(0)
"""


def plainly(case: Hostile, path: Path, folder: Path) -> str:
    """Say what the plain loader does with a file."""
    if case.plain is None:
        return "-"
    done, seconds, memory = _run(case.plain, path, folder)
    said = done.stdout.strip()
    if (folder / MARKER).exists():
        said = "**CODE RUNS**"
    elif done.returncode == -signal.SIGKILL and seconds >= _SECONDS:
        said = "hangs"
    elif done.returncode < 0:
        said = f"**killed by {signal.Signals(-done.returncode).name}**"
    elif not said:
        said = f"exit {done.returncode}"
    notable = f", {memory / 1e9:.1f} GB" if memory > _NOTEWORTHY else ""
    return (said if said.startswith("**") else _cell(said)) + notable


def _run(
    kind: str, path: Path, folder: Path
) -> tuple[subprocess.CompletedProcess[str], float, int]:
    """Load a file in another process; return what it said, its seconds and its most memory."""
    program = _PROGRAM.format(call=LOADERS[kind])
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path), kind],
            stdout=said,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=_limited,  # noqa: PLW1509 - this process has no other threads
        )
        status, used = _waited(process.pid, start)
        said.seek(0)
        text = said.read()
    done = subprocess.CompletedProcess(program, os.waitstatus_to_exitcode(status), text)
    return done, time.monotonic() - start, used.ru_maxrss << 10


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))


def _waited(pid: int, start: float) -> tuple[int, resource.struct_rusage]:
    """Wait for a process, and kill it when its time is over."""
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return status, used
        if time.monotonic() - start > _SECONDS:
            os.kill(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            return status, used
        time.sleep(0.01)


def ours(case: Hostile, path: Path, folder: Path, commands: Commands) -> str:
    """Say what lipaudit does with a file: its exit code, and the line that it printed."""
    done = case.run(commands, path, folder)
    words = _line(case, done).removeprefix("lipaudit: error: ").replace(f"{path}: ", "")
    return f"{_cell(words) or 'nothing'} (exit {done.code})"


def _line(case: Hostile, done: Done) -> str:
    """Return the line in which the first of the expected words stand, or else the first one."""
    lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines()]
    expected = case.says[0] if case.says else ""
    found = (line for line in lines if expected and expected in line)
    return next(found, next(filter(None, lines), ""))


def _cell(text: str) -> str:
    return short(safe(text), _WORDS).replace("|", "\\|").replace("`", "'")


def rows(cases: Sequence[Hostile]) -> None:
    """Print a row a case."""
    print("| # | input | plain loader today | lipaudit |\n|---|---|---|---|")  # noqa: T201
    with tempfile.TemporaryDirectory() as scratch:
        commands = Commands(Path(scratch))
        for case in cases:
            folder = Path(scratch) / "place" / case.name
            folder.mkdir(parents=True)
            path = case.build(folder)
            ours_says = ours(case, path, folder, commands)
            cells = (str(case.row or ""), _cell(case.what), plainly(case, path, folder), ours_says)
            print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201
        commands.close()


def main() -> None:
    """Print the table of the cases that are asked for, those of the list first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="of the names of the cases")
    word = parser.parse_args().word
    os.environ["LIPAUDIT_CACHE"] = "off"  # each file is read, and nothing is left
    offline.seal()
    chosen = [case for case in ALL if word in case.name]
    rows(sorted(chosen, key=lambda case: (case.row is None, case.row or 0)))


if __name__ == "__main__":
    main()
