"""RESULTS.md: tables in sections that are replaced one by one, and notes that are kept."""

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from timing import Timing

from lipaudit.version import __version__

NOTES = "Notes"
_TITLE = "# Benchmarks"
_INTRODUCTION = """\
Written by `python benchmarks/run.py`; only the section "Notes" is by hand. All methods work in
float64 and ran in turn, in one process, on the same machine. Seconds are the median of the
repeats, in brackets the least. `~` marks a time that was measured on a part of the
frequencies (or steps) and scaled up in proportion."""


def machine(device: str, date: str) -> dict[str, str]:
    """Describe where and when the numbers were measured."""
    described = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "lipaudit": __version__,
        "date": date,
    }
    if torch.device(device).type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def place(described: Mapping[str, str]) -> str:
    """Name a machine by what matters most on it."""
    return described.get("gpu", described["cpu"])


def machine_line(described: Mapping[str, str]) -> str:
    """Return the line that stands above every table."""
    gpu = f"{described['gpu']}; NumPy on " if "gpu" in described else ""
    return (
        f"{gpu}{described['cpu']}, {described['cores']} cores, {described['threads']} threads; "
        f"Python {described['python']}, torch {described['torch']}, NumPy {described['numpy']}, "
        f"lipaudit {described['lipaudit']}; {described['date']}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def time_cell(median: float | None, least: float | None, *, scaled: bool = False) -> str:
    """Return seconds for a table: "~12 (11)"."""
    if median is None or least is None:
        return "declined"
    return f"{'~' if scaled else ''}{_short(median)} ({_short(least)})"


def ratio_cell(theirs: float, ours: float | None, *, scaled: bool = False) -> str:
    """Return how many times ours another time is."""
    return "" if ours is None else f"{'~' if scaled else ''}{_short(theirs / ours)}x"


def error_cell(error: float | None) -> str:
    """Return a small number for a table; nothing when it is not known."""
    return "" if error is None else f"{error:.1e}"


def times(timing: Timing | None) -> tuple[float | None, float | None]:
    """Return median and least of a timing that may be missing."""
    return (None, None) if timing is None else (timing.median, timing.least)


def update(file: Path, sections: Mapping[str, str]) -> None:
    """Write the sections (title -> body) into the file; all its other sections stay as they are."""
    kept = _sections(file.read_text(encoding="utf-8")) if file.exists() else {}
    notes = kept.pop(NOTES, "")
    kept.update(sections)
    if notes:
        kept[NOTES] = notes
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in kept.items())
    file.write_text(f"{_TITLE}\n\n{_INTRODUCTION}\n\n{body}\n", encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    """Cut a file at its second-level headings."""
    _, *parts = re.split(r"^## +", text, flags=re.MULTILINE)
    cut = (part.partition("\n") for part in parts)
    return {title.strip(): body for title, _, body in cut}


def _short(number: float) -> str:
    """Return three digits without an exponent where people would not write one."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _cpu_model() -> str:
    """Return what the processor calls itself."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()
