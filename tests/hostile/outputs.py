"""Outputs that may not be, and readers and homes that are not there: nothing is lost."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.paths import GOOD

_NAME = "model.safetensors"
_OUTPUT = f"clipped-{_NAME}"
_MODEL = written.file(_NAME, GOOD)
INTERRUPTED = 130
CLOSED_PIPE = 141


def _beside(make: Callable[[Path], Any]) -> written.Build:
    """Return what writes a good model, and makes something beside it."""

    def build(folder: Path) -> Path:
        path = _MODEL(folder)
        make(folder)
        return path

    return build


def _clip(
    name: str,
    what: str,
    code: int,
    *says: str,
    output: str = _OUTPUT,
    build: written.Build = _MODEL,
    force: bool = False,
    happens: tuple[str, tuple[Any, ...]] = ("", ()),
) -> Hostile:
    options = ("--to", "1", "-o", output, *(["--force"] if force else []))
    return Hostile(
        f"output-{name}", what, build, code, says, command=("clip",), options=options, row=53,
        happens=happens,
    )  # fmt: skip


def _inspected(
    name: str,
    what: str,
    code: int,
    *says: str,
    key: str = "fc.weight",
    unread: bool = False,
    **environment: str,
) -> Hostile:
    build = written.file(_NAME, written.tensors({key: written.VALUES}))
    return Hostile(
        f"reader-{name}", what, build, code, says, row=54, unread=unread, environment=environment
    )


def _staging(*action: Any) -> tuple[str, tuple[Any, ...]]:
    """Let it happen when the hidden folder is made, or taken away."""
    return "os.mkdir", action


CASES: tuple[Hostile, ...] = (
    _clip("is-the-input", "clip onto the input", 2, "is the input itself", output=_NAME),
    _clip("is-forced-onto-the-input", "clip onto the input, --force", 2,
          "is the input itself", output=_NAME, force=True),
    _clip("leads-to-the-input", "clip onto a link to the input, --force", 2,
          "is the input itself", output=f"link-{_NAME}", force=True,
          build=_beside(lambda folder: (folder / f"link-{_NAME}").symlink_to(_NAME))),
    _clip("is-hard-linked-to-the-input", "clip onto another name of the input, --force", 2,
          "is the input itself", output=f"link-{_NAME}", force=True,
          build=_beside(lambda folder: (folder / f"link-{_NAME}").hardlink_to(folder / _NAME))),
    _clip("exists", "clip onto a file that exists", 2, "exists already; use --force",
          build=_beside(lambda folder: (folder / _OUTPUT).write_bytes(b"old"))),
    _clip("is-a-folder", "clip onto a folder", 2, "is a folder that exists", force=True,
          build=_beside(lambda folder: (folder / _OUTPUT).mkdir())),
    _clip("in-no-folder", "clip into a folder that is missing", 2, "no such folder",
          output=f"gone/{_OUTPUT}"),
    _clip("where-nothing-may-be-written", "clip into /proc", 2, "written",
          output=f"/proc/{_OUTPUT}"),
    _clip("on-a-full-disk", "clip onto a full disk", 2, "No space left on device",
          happens=_staging("full")),
    _clip("on-a-full-disk-over-an-old-one", "clip onto a full disk, --force", 2,
          "No space left on device", force=True, happens=_staging("full"),
          build=_beside(lambda folder: (folder / _OUTPUT).write_bytes(b"old"))),
    _clip("interrupted", "Ctrl-C during clip", INTERRUPTED,
          happens=_staging("signal", int(signal.SIGINT))),
    _clip("terminated", "SIGTERM during clip", INTERRUPTED,
          happens=_staging("signal", int(signal.SIGTERM))),
    _inspected("left", "stdout that nobody reads", CLOSED_PIPE, unread=True),
    _inspected("knows-ascii-only", "C locale", 0, "f\\xfc", key="f\u00fc.weight",
               PYTHONIOENCODING="ascii"),
    _inspected("has-20-columns", "terminal of 20 columns", 0, "fc", COLUMNS="20"),
    _inspected("has-no-home", "HOME that is no folder", 0, "fc", HOME="/proc/none",
               XDG_CACHE_HOME="", LIPAUDIT_CACHE=""),
)  # fmt: skip
