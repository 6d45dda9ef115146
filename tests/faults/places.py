"""Folders before and after: what was there, what is there, and what is wrong with that."""

import re
import shutil
from pathlib import Path

from tests.commands import Done

Snapshot = dict[str, bytes | None]
_HIDDEN = re.compile(r"\.lipaudit-[0-9a-f]+")
_TOKEN = re.compile(r"/[0-9a-f]{16}\b")


def snapshot(folder: Path) -> Snapshot:
    """Return every file and folder with its bytes, links included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def put_back(folder: Path, before: Snapshot) -> None:
    """Make the folder what it was."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in before:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, data in before.items():
        if data is not None:
            (folder / name).write_bytes(data)


def clear_hidden(folder: Path) -> None:
    """Take away what a killed command left: folders with hidden names, and nothing else."""
    for left in folder.rglob(".lipaudit-*"):
        shutil.rmtree(left)


def steps(events: tuple[str, ...]) -> list[int]:
    """Return the numbers of the events of every sort: the first and the last of each.

    Two events are of one sort when the same is done at the same place, whatever the random name
    of the hidden folder.
    """
    sorts: dict[str, list[int]] = {}
    for number, event in enumerate(events, 1):
        sort = _TOKEN.sub("/SPARE", _HIDDEN.sub("HIDDEN", event))
        sorts.setdefault(re.sub(r"(plots.*/|/r\.)[\w.-]+", r"\1NAME", sort), []).append(number)
    return sorted({at for found in sorts.values() for at in (found[0], found[-1])})


def assert_refused(done: Done, cause: str = "") -> None:
    """Exit 2, one line, nothing else."""
    assert done.code == 2, done
    assert done.stderr.count("\n") == 1, done
    line = done.stderr.strip()
    assert line.startswith("lipaudit: error: ")
    assert cause in line
    assert not done.stdout
