"""Delivery: which reports go where; refused before any work if they cannot go there.

Every file appears whole or not at all, beside nothing half-written, and a report never takes
the place of a model it is about.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lipaudit.cli import streams
from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from lipaudit.report.base import Canvas, Reporter

_STDOUT = "-"
_SUMMARY = "GITHUB_STEP_SUMMARY"
_SUMMARY_FORMAT = "markdown"
_SUMMARY_LIMIT = 1 << 20
"""Bytes; of a longer summary GitHub shows nothing (its documentation of workflow commands)."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the options say: one report to stdout or `-o`, any number of others to files."""

    report_format: str
    output: str | None
    force: bool
    reports: tuple[str, ...] = ()
    """As `--report` takes them: FORMAT=FILE."""
    github_summary: bool = False
    taken: tuple[str, ...] = ()
    """What the command itself is going to write."""
    sources: tuple[str, ...] = ()
    """Files that are read besides the models: a config, a baseline, samples."""

    @property
    def formats(self) -> frozenset[str]:
        """All formats that are wanted."""
        return frozenset(name for name, _ in self._targets())

    @property
    def is_stream(self) -> bool:
        """Whether stdout gets records one by one, so that some may come before the report."""
        return self.report_format == "jsonl" and self.output is None

    def check(self, inputs: Sequence[str]) -> None:
        """Raise if a format is unknown or a target cannot be written; `inputs` are the models."""
        streams.check_format(self.report_format)
        seen = {_place(path) for path in self.taken}
        for _, target in self._targets():
            if _place(target) in seen:
                raise self._twice(target)
            seen.add(_place(target))
            check_output(target, (*inputs, *self.sources), force=self.force)
        if self.github_summary:
            summary = _place(str(_summary_file()))
            if summary in seen | {_place(path) for path in (*inputs, *self.sources)}:
                raise UsageError(
                    f"{_SUMMARY} names a file that this command reads or writes otherwise",
                    slug="github-summary",
                    hint="it is GitHub's own file; leave the variable as it is",
                )

    def _twice(self, target: str) -> UsageError:
        """Return what is said where two outputs would go to one place."""
        if target != _STDOUT:
            return UsageError(
                f"two outputs go to {target!r}", slug="report-twice", hint="give each its own file"
            )
        names = [name for name, place in self._targets() if place == _STDOUT]
        return UsageError(
            f"{len(names)} reports ({', '.join(names)}) go to standard output",
            slug="report-twice",
            hint="print one with -f FORMAT, and name a file for each other",
        )

    def send(self, inputs: Sequence[str], render: "Callable[[Reporter, Canvas], str]") -> None:
        """Write every report: first the files, whole; then the job summary; then stdout."""
        from lipaudit.report.catalog import REPORTERS  # noqa: PLC0415 - keeps `--help` instant

        texts = {
            target: _ended(render(REPORTERS[name], streams.canvas(to_file=target != _STDOUT)))
            for name, target in self._targets()
        }
        printed = texts.pop(_STDOUT, None)
        _put(texts, (*inputs, *self.sources), force=self.force)
        if self.github_summary:
            canvas = streams.canvas(to_file=True)
            _append(_summary_file(), _ended(render(REPORTERS[_SUMMARY_FORMAT], canvas)))
        if printed is not None:
            streams.to_stdout(printed)

    def _targets(self) -> list[tuple[str, str]]:
        """Return format and target of every report."""
        return [(self.report_format, self.output or _STDOUT), *map(_parsed, self.reports)]


def check_output(output: str | None, inputs: Sequence[str], *, force: bool) -> None:
    """Raise if a text could not be delivered there; `inputs` are never replaced."""
    from lipaudit.formats import outputs  # noqa: PLC0415 - keeps `--help` instant

    if (output or _STDOUT) != _STDOUT:
        outputs.check(Path(str(output)), _files(inputs), force=force)


def deliver(
    text: str, output: str | None = None, *, inputs: Sequence[str] = (), force: bool = False
) -> None:
    """Write one text that is no report of an audit: to stdout, or to a file as reports are."""
    if output is None or output == _STDOUT:
        streams.to_stdout(_ended(text))
    else:
        _put({output: _ended(text)}, inputs, force=force)


def _put(texts: Mapping[str, str], inputs: Sequence[str], *, force: bool) -> None:
    from lipaudit.formats import outputs  # noqa: PLC0415 - keeps `--help` instant

    files = {Path(target): text.encode() for target, text in texts.items()}
    outputs.put(files, originals=_files(inputs), force=force)


def _parsed(text: str) -> tuple[str, str]:
    """Read `sarif=out.sarif`."""
    name, _, target = text.partition("=")
    if not name or not target:
        raise UsageError(
            f"--report {text!r} names no format and file",
            slug="report",
            hint="write it like sarif=report.sarif",
        )
    streams.check_format(name)
    return name, target


def _files(inputs: Sequence[str]) -> list[Path]:
    """Return what must not be overwritten by a report about it."""
    found = [Path(path) for path in inputs]
    for path in map(Path, inputs):
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            found += path.iterdir() if path.is_dir() else ()
    return found


def _place(target: str) -> str:
    """Return one name for every way to write a path."""
    return target if target == _STDOUT else os.path.realpath(target)


def _summary_file() -> Path:
    """Return where GitHub reads the job summary."""
    name = os.environ.get(_SUMMARY, "")
    path = Path(name)
    writable = os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    if not name or not path.absolute().parent.is_dir() or path.is_dir() or not writable:
        cause = f"{_SUMMARY} names no file that can be written" if name else f"no {_SUMMARY} is set"
        raise UsageError(
            cause,
            slug="github-summary",
            hint="--github-summary is for GitHub Actions; elsewhere use --report markdown=FILE",
        )
    return path


def _append(path: Path, text: str) -> None:
    """Add to the job summary what there is room for."""
    from lipaudit.formats import outputs  # noqa: PLC0415 - keeps `--help` instant

    room = _SUMMARY_LIMIT - (path.stat().st_size if path.exists() else 0)
    data = text.encode()
    if len(data) > room:
        streams.warn("the job summary takes one megabyte: its last lines were left out")
        data = data[: max(room, 0)]
        data = data[: data.rfind(b"\n") + 1]
    outputs.append(path, data)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
