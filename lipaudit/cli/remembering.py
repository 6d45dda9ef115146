"""Remembering: an audit whose report is kept already is not run again, and imports no torch."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipaudit.cli import streams

if TYPE_CHECKING:
    from lipaudit.archive import Archive
    from lipaudit.cache.store import Store
    from lipaudit.results import Report

VARIABLE = "LIPAUDIT_CACHE"
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        envvar=VARIABLE,
        help="Where results are kept for the next run, or off; else your cache folder.",
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Work everything out anew, and keep nothing.")
]

Warn = Callable[[str], None]
Files = Mapping[Path, tuple[int, ...]]
"""The files a model was read from, and what each of them was when it was read."""
_PASSING = frozenset({"memory", "worker-lost"})
"""Slugs of layers that had no memory or no worker: in an hour they may have."""
_CPU = "cpu"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_CHOSEN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def opened(
    stated: str | None, *, off: bool = False, configured: str | None = None
) -> "Store | None":
    """Return where results are kept: as an option, a variable or a config says; None: nowhere."""
    from lipaudit.cache import place  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.cache.store import Store  # noqa: PLC0415 - the same

    wanted = stated or configured
    if off or wanted == place.OFF:
        return None
    folder = place.default(os.environ) if wanted is None else Path(wanted).absolute()
    if folder is None:
        return None
    return Store(folder, warn=streams.warn, expected=wanted is not None)


def archive(
    store: "Store | None", device: str, asked: Mapping[str, Any], others: Sequence[str] = ()
) -> "Archive | None":
    """Return the reports on what is asked, `others` being files it takes; None where none are kept.

    Which device "auto" means is not asked of torch: it is what the same machine said before.
    """
    from lipaudit.archive import Archive  # noqa: PLC0415 - keeps `--help` instant

    if store is None:
        return None
    drivers = [*map(os.path.exists, _DRIVERS), *map(os.environ.get, _CHOSEN)]
    where = (device, () if device == _CPU else drivers)
    try:
        return Archive(store, {"where": where, **asked}, [Path(file) for file in others])
    except (OSError, EOFError, ValueError):
        return None  # reading it will say what is wrong


def audited(
    kept: "Archive | None", path: str, audit: "Callable[[Warn], tuple[Report, Files]]"
) -> "Report":
    """Return the report on a model: the one that is kept, or that of an audit, to be kept.

    An audit that warned is not kept: nobody would be warned again.
    """
    found = kept.find(path) if kept is not None else None
    if found is not None:
        return found
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        streams.warn(text)

    report, files = audit(warn)
    short = any(skipped.slug in _PASSING for one in report.models for skipped in one.skipped)
    if kept is not None and not warnings and not short:
        kept.keep(path, report, files)
    return report


def state(store: "Store | None") -> dict[str, Any]:
    """Return where results are kept, and how much there is."""
    if store is None:
        return {"folder": None, "entries": 0, "bytes": 0}
    entries, size = store.size()
    return {"folder": str(store.folder), "entries": entries, "bytes": size}


def described(found: Mapping[str, Any]) -> str:
    """Say it in words."""
    if found["folder"] is None:
        return "none"
    return f"{found['folder']}: {found['entries']:,} entries, {found['bytes'] / 2**20:.1f} MiB"
