"""Run the benchmarks: python benchmarks/run.py [--quick | --full] [--only figure1,norms,...].

    --full               all sizes (the default), and write benchmarks/RESULTS.md
    --quick              small sizes; print the tables and write nothing unless told where
    --device cuda        lipaudit and the torch methods on a GPU, the two-liner beside on the CPU
    --json FILE          also write the raw rows, for --merge
    --merge FILE         measure nothing: add rows of another machine to RESULTS.md

RESULTS.md is updated section by section: what was not run keeps its last numbers.
"""

import argparse
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import again
import audits
import bounds
import clips
import figure1
import growth
import norms
import peers
import plot
import report
import rewrites
import workers
from cases import Options

from lipaudit.device import keep_memory

_HERE = Path(__file__).resolve().parent
_MODELS = _HERE.parents[1] / "shared" / "models"
_FIGURE = "figure1.svg"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: how its rows are measured, read back and shown."""

    title: str
    row: Callable[..., Any]
    measure: Callable[[Options], Sequence[Any]]
    markdown: Callable[[list[Any]], str]


_BENCHMARKS = {
    "figure1": Benchmark(figure1.TITLE, figure1.Row, figure1.measure, figure1.markdown),
    "norms": Benchmark(norms.TITLE, norms.Row, norms.measure, norms.markdown),
    "networks": Benchmark(audits.TITLE, audits.Row, audits.measure, audits.markdown),
    "bounds": Benchmark(bounds.TITLE, bounds.Row, bounds.measure, bounds.markdown),
    "clip": Benchmark(clips.TITLE, clips.Row, clips.measure, clips.markdown),
    "rewrites": Benchmark(rewrites.TITLE, rewrites.Row, rewrites.measure, rewrites.markdown),
    "growth": Benchmark(growth.TITLE, growth.Row, growth.measure, growth.markdown),
    "workers": Benchmark(workers.TITLE, workers.Row, workers.measure, workers.markdown),
    "again": Benchmark(again.TITLE, again.Row, again.measure, again.markdown),
    "peers": Benchmark(peers.TITLE, peers.Row, peers.measure, peers.markdown),
}

Rows = Mapping[str, Sequence[Any]]


def main() -> None:
    """Measure or merge, as the command line says."""
    arguments = _parser().parse_args()
    if arguments.merge is not None:
        _merge(arguments.merge, arguments.results or _HERE / "RESULTS.md")
        return
    options = Options(
        device=arguments.device,
        quick=arguments.quick,
        limit=arguments.limit,
        repeats=arguments.repeats,
        models=arguments.models if arguments.models.is_dir() else None,
    )
    keep_memory()  # as the command does; the others gain by it too
    described = report.machine(arguments.device, arguments.date)
    print(report.machine_line(described))
    rows: dict[str, Sequence[Any]] = {}
    for name in arguments.only:
        print(f"\n{_BENCHMARKS[name].title}")
        rows[name] = _BENCHMARKS[name].measure(options)
        # After each benchmark: an interrupted run keeps what is done.
        if arguments.json is not None:
            _dump(arguments.json, described, rows)
    sections = _sections(rows, described, suffix="")
    for title, body in sections.items():
        print(f"\n## {title}\n\n{body}")
    file = arguments.results or (None if arguments.quick else _HERE / "RESULTS.md")
    if file is not None:
        _write(file, sections, rows, described)


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Time lipaudit beside the methods of the papers.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="small sizes only")
    length.add_argument("--full", action="store_true", help="all sizes (default)")
    parser.add_argument(
        "--only",
        type=_names,
        default=list(_BENCHMARKS),
        help=f"comma-separated, of: {', '.join(_BENCHMARKS)}",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for one baseline call")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the contestants")
    parser.add_argument("--models", type=Path, default=_MODELS, help="folder of trained models")
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    parser.add_argument("--date", default=today, help="to be written into the results")
    parser.add_argument("--results", type=Path, help="file to update instead of RESULTS.md")
    parser.add_argument("--json", type=Path, help="where to write the raw rows")
    parser.add_argument("--merge", type=Path, help="raw rows of another machine to add")
    return parser


def _names(listed: str) -> list[str]:
    """Cut a list of names, and refuse one that is not there."""
    names = listed.split(",")
    unknown = [name for name in names if name not in _BENCHMARKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no benchmark is called {', '.join(unknown)}")
    return names


def _sections(rows: Rows, described: Mapping[str, str], *, suffix: str) -> dict[str, str]:
    """Return a section for each benchmark that has rows."""
    line = report.machine_line(described)
    return {
        _BENCHMARKS[name].title + suffix: f"{line}\n\n{_BENCHMARKS[name].markdown(list(found))}"
        for name, found in rows.items()
        if found
    }


def _write(file: Path, sections: dict[str, str], rows: Rows, described: Mapping[str, str]) -> None:
    """Update the results, and draw the figure beside them."""
    if figure1.TITLE in sections:
        subtitle = f"{report.place(described)}, {described['date']}."
        plot.draw(rows["figure1"], subtitle, file.with_name(_FIGURE))
        sections[figure1.TITLE] = f"![Figure 1]({_FIGURE})\n\n{sections[figure1.TITLE]}"
    report.update(file, sections)
    print(f"\nwrote {file}")


def _dump(file: Path, described: Mapping[str, str], rows: Rows) -> None:
    """Write the raw rows with the machine they were measured on."""
    listed = {name: [asdict(row) for row in found] for name, found in rows.items()}
    file.write_text(json.dumps({"machine": described, "rows": listed}, indent=1) + "\n")


def _merge(source: Path, file: Path) -> None:
    """Add the rows of another machine as sections of their own."""
    loaded = json.loads(source.read_text())
    rows = {
        name: [_BENCHMARKS[name].row(**row) for row in found]
        for name, found in loaded["rows"].items()
    }
    suffix = f", on {report.place(loaded['machine'])}"
    report.update(file, _sections(rows, loaded["machine"], suffix=suffix))
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
