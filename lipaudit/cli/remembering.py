"""Remembering: an audit whose report is kept already is not run again, and imports no torch."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from lipaudit.cli import options, streams
from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from lipaudit.archive import Archive
    from lipaudit.cache.store import Store
    from lipaudit.results import LayerResult, Report, Skipped

VARIABLE = "LIPAUDIT_CACHE"
SIZE_VARIABLE = "LIPAUDIT_CACHE_SIZE"
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
CacheSize = Annotated[
    str | None,
    typer.Option(
        "--cache-size",
        metavar="256M",
        envvar=SIZE_VARIABLE,
        help="How large the cache may grow.",
    ),
]

Tell = Callable[["LayerResult | Skipped"], None]
Files = Mapping[Path, tuple[int, ...]]
"""The files a model was read from, and what each of them was when it was read."""
_PASSING = frozenset({"memory", "worker-lost"})
"""Slugs of layers that had no memory or no worker: in an hour they may have."""
_CPU = "cpu"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_CHOSEN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def opened(
    stated: str | None,
    size: str | None = None,
    *,
    off: bool = False,
    configured: str | None = None,
) -> "Store | None":
    """Return where results are kept: as an option, a variable or a config says; None: nowhere."""
    from lipaudit.cache import place  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.cache.store import LIMIT, Store  # noqa: PLC0415 - the same

    try:
        limit = options.memory(size or None) or LIMIT
    except UsageError:
        raise UsageError(
            f"{size!r} is no size of a cache",
            slug="memory",
            hint="write it like 500M, or --no-cache",
        ) from None
    wanted = stated or configured
    if off or wanted == place.OFF:
        return None
    folder = place.default(os.environ) if wanted is None else Path(wanted).absolute()
    if folder is None:
        return None
    return Store(folder, limit=limit, warn=streams.warn, expected=wanted is not None)


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


@final
class Listener:
    """Who hears what an audit says before its report: warnings, and each layer when it is done."""

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell = tell
        self.has_been_warned = False
        self.layers: list[LayerResult | Skipped] = []

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self.has_been_warned = True
        streams.warn(text)

    def told(self, layer: "LayerResult | Skipped") -> None:
        """Pass a layer on to those who want to know."""
        self.layers.append(layer)
        if self._tell is not None:
            self._tell(layer)


def audited(
    kept: "Archive | None",
    path: str,
    audit: "Callable[[Listener], tuple[Report, Files]]",
    tell: Tell | None = None,
) -> "Report":
    """Return the report on a model: the one that is kept, or that of an audit, to be kept.

    `tell` hears of every layer before. An audit that warned is not kept: nobody would be warned
    again.
    """
    from lipaudit.cache import hashing  # noqa: PLC0415 - keeps `--help` instant

    listener = Listener(tell)
    if kept is None:
        return audit(listener)[0]
    found = kept.find(path, tell)
    if found is not None:
        return found
    with hashing.trees() as trees:
        report, files = audit(listener)
    short = any(skipped.slug in _PASSING for one in report.models for skipped in one.skipped)
    if not listener.has_been_warned and not short:
        kept.keep(path, report, files, told=listener.layers, trees=trees)
    return report


def state(store: "Store | None") -> dict[str, Any]:
    """Return where results are kept, and how much there is."""
    if store is None:
        return {"folder": None, "entries": 0, "bytes": 0, "limit": 0}
    entries, size = store.size()
    return {"folder": str(store.folder), "entries": entries, "bytes": size, "limit": store.limit}


def described(found: Mapping[str, Any]) -> str:
    """Say it in words."""
    if found["folder"] is None:
        return "none"
    taken, limit = (f"{found[key] / 2**20:,.1f} MiB" for key in ("bytes", "limit"))
    return f"{found['folder']}: {found['entries']:,} entries, {taken} of {limit} at most"
