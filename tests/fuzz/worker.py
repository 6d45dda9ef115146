"""Worker: a process of its own in which cases are checked; requests and answers are JSON lines.

A request is `{"generator": ..., "seed": ..., "count": ...}` or `{"text": ...}`, a case spelled
out. Before each case its place is noted in a file, so that a case that kills the process is known.
"""

import gc
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case, parsed
from tests.fuzz.property import Broken, Depth, check, confine
from tests.fuzz.structured import case_of

NOTE = "now"
"""The file in the scratch folder that says which case is being checked."""
PRINTED = "printed"
"""The file there that takes what anything prints."""
_WARM_UP = 3


def serve(scratch: Path) -> None:
    """Answer the requests on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    printed = os.open(scratch / PRINTED, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    folder = scratch / "place"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    note = os.open(scratch / NOTE, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for kind in ("onnx", "pt"):  # what is imported late is imported now
        for seed in range(_WARM_UP):
            _checked(case_of(f"bytes-{kind}", seed), folder, printed)
    os.ftruncate(printed, 0)
    gc.collect()
    gc.freeze()
    confine()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        outcomes: Counter[str] = Counter()
        failures: list[dict[str, Any]] = []
        for name, depth, case in _cases(json.loads(line)):
            os.pwrite(note, f"{name:<200}".encode(), 0)
            slug, why = _checked(case, folder, printed, depth)
            outcomes[slug] += 1
            if why:
                failures.append({"case": case.text(f"{name}: {why}"), "name": name, "why": why})
        answers.write(json.dumps({"outcomes": outcomes, "failures": failures}) + "\n")
        answers.flush()


def _cases(request: dict[str, Any]) -> Iterator[tuple[str, Depth, Case]]:
    if "text" in request:
        yield "given", Depth.REPORT, parsed(request["text"])
        return
    name, first = request["generator"], request["seed"]
    for seed in range(first, first + request["count"]):
        yield f"{name} {seed}", Depth.of(seed), case_of(name, seed)


def _checked(
    case: Case, folder: Path, printed: int, depth: Depth = Depth.REPORT
) -> tuple[str, str]:
    """Return the slug, and what is broken."""
    try:
        slug, why = check(case, folder, depth), ""
    except Broken as broken:
        slug, why = "BROKEN", str(broken)
    except Exception as error:  # noqa: BLE001 - what is found is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        slug, why = "BROKEN", f"{type(error).__name__} at {where}: {str(error)[:200]}"
    sys.stdout.flush()
    sys.stderr.flush()
    said = os.pread(printed, 300, 0)
    if said:
        os.ftruncate(printed, 0)
        os.lseek(printed, 0, os.SEEK_SET)
        if not why:
            slug, why = "BROKEN", f"printed {said!r}"
    return slug, why


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
