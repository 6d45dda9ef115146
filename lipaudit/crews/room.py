"""Room: how many processors and how much memory this process may take of its machine.

A container is often given less than the machine has: by its scheduling (an affinity), and by the
kernel's control groups, which stop a process that has used up its share of every tenth of a
second, and kill one that takes more memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_OLD_QUOTA = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def cores() -> int:
    """Return how many processes that compute make sense: at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = min(_quotas(), default=float("inf"))
    return int(max(min(allowed or 1, torch.get_num_threads(), quota), 1))


def memory() -> int | None:
    """Return how many bytes of memory there are to be had; None where nothing says so."""
    limits = list(_limits())
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in limits if limit > 0), default=None)


def _quotas() -> Iterator[float]:
    """Yield how many processors each control group above this process may use.

    `cpu.max` holds a quota and a period (kernel.org, cgroup-v2); version 1 has a file for each.
    """
    for folder in _groups(""):
        yield from _share(_words(folder / "cpu.max"))
    for folder in _groups("cpu"):
        yield from _share([*_words(folder / _OLD_QUOTA[0]), *_words(folder / _OLD_QUOTA[1])])


def _share(words: list[str]) -> Iterator[float]:
    # "max", or -1 in version 1, is no limit.
    if len(words) == 2 and all(word.isdigit() and int(word) > 0 for word in words):
        yield int(words[0]) / int(words[1])


def _limits() -> Iterator[int]:
    """Yield how many bytes each control group above this process may take."""
    for folder in _groups(""):
        yield from (int(word) for word in _words(folder / "memory.max") if word.isdigit())
    for folder in _groups("memory"):
        words = _words(folder / "memory.limit_in_bytes")
        yield from (int(word) for word in words if word.isdigit())


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those it is in; "" means version 2."""
    for line in _lines(_OWN):
        _, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if controller not in names.split(","):
            continue
        root = _MOUNT / controller
        # In a container the path may be the one outside of it, and the group its own root.
        inner = root / place.lstrip("/")
        yield inner
        yield from (folder for folder in inner.parents if folder.is_relative_to(root))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _words(path: Path) -> list[str]:
    return next(iter(_lines(path)), "").split()
