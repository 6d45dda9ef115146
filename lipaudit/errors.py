"""Everything that can go wrong, as one tree.

    LipauditError                 one line for the user: path, cause, hint
    ├── UsageError                the command or call makes no sense            exit 2
    ├── FileError                 about one file                                exit 2
    │   ├── UnreadableFile        missing, empty, not a regular file, I/O error
    │   ├── UnsupportedFormat     readable, but no format we know
    │   ├── MalformedFile         a known format whose content contradicts itself
    │   ├── UnsafeFile            built to harm the reader
    │   └── WriteRefused          the output cannot or must not be written
    ├── ShapeError                the input shape does not fit the graph        exit 2
    ├── CrewError                 workers that cannot do what they were asked   exit 2
    │   └── NoCrew                    for no file at all
    └── NotCertified              read, but the claim cannot be proven          exit 3

What cannot be decided about one *layer* is not an error but data in the report
(`results.Skipped`, `layers.base.Unbounded`): the other layers still get their numbers.
A traceback means a bug in lipaudit.

Every message has a slug, a short stable name that scripts may match and documentation
explains.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process tells its caller; several files take the worst (`worst`)."""

    OK = 0
    GATE_FAILED = 1
    ERROR = 2
    NOT_CERTIFIED = 3
    INTERRUPTED = 130
    CLOSED_PIPE = 141


def worst(codes: list[ExitCode]) -> ExitCode:
    """Return the code that speaks for several files: 2 over 1 over 3 over 0."""
    order = (ExitCode.ERROR, ExitCode.GATE_FAILED, ExitCode.NOT_CERTIFIED)
    return next((code for code in order if code in codes), ExitCode.OK)


class LipauditError(Exception):
    """A problem the user can act on; `str()` is its one line."""

    exit_code: ClassVar[ExitCode] = ExitCode.ERROR
    ends_run: bool = False
    """Whether every other file would meet it too, so that there is no use in going on."""

    def __init__(self, cause: str, *, slug: str, hint: str = "", path: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.slug = slug
        self.hint = hint
        self.path = path

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        way_out = f"; {self.hint}" if self.hint else ""
        return f"{where}{self.cause}{way_out}"


class UsageError(LipauditError):
    """The command line or the call asks for something that makes no sense."""


class FileError(LipauditError):
    """Something is wrong with one file, named by `path`."""


class UnreadableFile(FileError):
    """The file is missing, empty, not a regular file, or the system refuses to read it."""


class UnsupportedFormat(FileError):
    """The file is readable but is not a model format lipaudit reads."""


class MalformedFile(FileError):
    """The file claims a known format and then contradicts it."""


class UnsafeFile(FileError):
    """The file is built in a way no honest writer builds it."""


class WriteRefused(FileError):
    """The output cannot be written, or writing it would destroy something."""


class ShapeError(LipauditError):
    """An input shape that the graph cannot carry; the cause names the node."""


class CrewError(LipauditError):
    """Those who were to measure layers cannot: another version, another file, no connection."""


class NoCrew(CrewError):
    """They can measure nothing, of whatever file."""

    ends_run = True


class NotCertified(LipauditError):
    """The file was read, but what was asked of it cannot be proven."""

    exit_code: ClassVar[ExitCode] = ExitCode.NOT_CERTIFIED
