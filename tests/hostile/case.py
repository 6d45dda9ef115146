"""What a bad input is: how it is made, what is asked of it, and what it must get."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from lipaudit.report.text import safe
from tests.commands import Commands, Done

MARKER = "CODE-RAN"
"""The file, in the folder of the case, that every payload makes if it is ever run."""
SECONDS = 2.0
"""Of processor time, on the machine of `_USUAL` while nobody else uses it."""
_LOOP = 2_000_000
_USUAL = 0.056
"""Seconds of processor time that so many rounds take there: an AMD EPYC, with Python 3.11."""
MEMORY = 300 << 20
UNATTACKED = r"lipaudit: warning: .*: no lower bound is looked for: the weights take .* bytes.*\n"
"""What `bound` says on stderr of weights that are too large to look for two inputs."""
KILLED = 15.0
"""Times its seconds, by the clock, a command is killed. What it spends is measured in processor
time; this ends what waits, and the suite runs on busy machines."""
WIDE = {"COLUMNS": "400"}
"""So that no line of a table breaks inside of what is looked for."""
_LARGE = 1 << 28


@final
@dataclass(frozen=True, slots=True)
class Hostile:
    """One bad input, built by code into an empty folder."""

    name: str
    """In small letters and hyphens; of the pytest case, and of the line of `make hostile`."""
    what: str
    """In a few words, for the table: `one bit flipped in a weight`."""
    build: Callable[[Path], Path]
    """Writes the files into a folder and returns what lipaudit is to read."""
    code: int
    """The exit code."""
    says: tuple[str, ...]
    """Parts of the one line on stderr (exit 2), or else of stdout and stderr together."""
    silent: tuple[str, ...] = ()
    """What must not be printed anywhere."""
    command: tuple[str, ...] = ("inspect",)
    """Before the path."""
    options: tuple[str, ...] = ()
    """After the path."""
    row: int | None = None
    """Its number in the list of bad inputs this suite started from; None for a neighbour."""
    plain: str | None = None
    """How the plain loader reads it: torch, torchscript, export, safetensors, onnx, or not."""
    seconds: float = SECONDS
    memory: int = MEMORY
    warns: str = ""
    """The whole of stderr where the exit code is not 2, as a pattern: by default nothing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    unread: bool = False
    """Whether nobody reads what it prints any more."""
    happens: tuple[str, tuple[Any, ...]] = ("", ())
    """What happens to the command whenever it does this in the folder, as `commands` has it."""

    def run(self, commands: Commands, path: Path, folder: Path) -> Done:
        """Run lipaudit on the file; `folder` is that of the case."""
        event, action = self.happens
        return commands.run(
            *self.command,
            path,
            *self.options,
            cwd=folder,
            seconds=KILLED * self.seconds,
            environment=WIDE | dict(self.environment),
            unread=self.unread,
            folder=folder,
            event=event,
            action=action,
        )

    def check(self, commands: Commands, place: Path) -> None:
        """Hold lipaudit against the promise; `place` is an empty folder."""
        folder = place / "place"
        folder.mkdir()
        path = self.build(folder)
        before = snapshot(folder)
        done = self.run(commands, path, folder)
        assert not list(place.rglob(MARKER)), "code of the file was run"
        assert snapshot(folder) == before, "something was written"
        assert done.code >= 0, f"killed by signal {-done.code}"
        assert done.code == self.code, done
        self._check_words(done, path)
        if done.seconds > self.seconds:
            most = self.seconds * slowness()
            assert done.seconds <= most, f"took {done.seconds:.1f} s of processor time"
        assert done.memory <= self.memory, f"held {done.memory >> 20:,} MB"

    def _check_words(self, done: Done, path: Path) -> None:
        said = done.stdout + done.stderr
        for part in ("Traceback", "internal error", "\x1b", *self.silent):
            assert part not in said, f"{part!r} was printed"
        if done.code == 2:
            (said,) = done.stderr.splitlines()
            assert said.startswith("lipaudit: error: ")
            assert safe(path.name)[:40] in said
            assert not done.stdout
        else:
            assert re.fullmatch(self.warns, done.stderr), done.stderr
        for part in self.says:
            assert part in said, done


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that can be known of every entry, without opening what may block.

    The time of change cannot be set back: it tells for what is too large to be read, too.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        held: bytes | str | None = None
        if path.is_symlink():
            held = str(path.readlink())
        elif path.is_file() and status.st_size < _LARGE:
            held = path.read_bytes()
        times = (status.st_mtime_ns, status.st_ctime_ns)
        owner = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
        found[str(path.relative_to(folder))] = (owner, status.st_size, times, held)
    return found


def slowness() -> float:
    """Return how many times as long as usual this machine takes just now; at least 1.

    Processor time grows too where strangers share the cores and caches.
    """
    taken = []
    for _ in range(3):
        start, total = time.process_time(), 0
        for number in range(_LOOP):
            total += number & 7
        taken.append(time.process_time() - start)
    return max(1.0, sorted(taken)[1] / _USUAL)
