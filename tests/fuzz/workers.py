"""Workers: the client of `worker`, which survives what a case does to its process."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import worker
from tests.fuzz.property import HANGS
from tests.fuzz.structured import case_of

_ROOT = Path(__file__).resolve().parents[2]
_STARTS_IN = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A case for which something did not hold."""

    name: str
    """Of the generator, and the seed; "given" where the case was handed in."""
    why: str
    text: str
    """The case as text."""


@dataclass(slots=True)
class Batch:
    """What came of some cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


class Worker:
    """One process, started anew when it dies."""

    def __init__(self, scratch: Path, program: str = worker.__name__) -> None:
        """Take an empty folder, and the module that answers."""
        self._scratch = scratch
        self._program = program
        self._process: subprocess.Popen[str] | None = None

    def run(self, generator: str, seed: int, count: int) -> Batch:
        """Check the cases of a generator from a seed on."""
        done = Batch()
        while count:
            answer = self._asked({"generator": generator, "seed": seed, "count": count})
            if answer is not None:
                _add(done, answer)
                return done
            # The process is gone: the case it was at is to blame, those before it are done again.
            killer = self._place(generator, seed)
            if killer > seed:
                before = self.run(generator, seed, killer - seed)
                done.outcomes += before.outcomes
                done.failures += before.failures
            why = "killed the process, or did not end"
            name = f"{generator} {killer}"
            text = case_of(generator, killer).text(f"{name}: {why}")
            done.outcomes["BROKEN"] += 1
            done.failures.append(Failure(name, why, text))
            count -= killer + 1 - seed
            seed = killer + 1
        return done

    def check(self, text: str) -> str:
        """Return what is broken by a case that is spelled out; "" when all holds."""
        answer = self._asked({"text": text})
        if answer is None:
            return "killed the process, or did not end"
        return next((str(failure["why"]) for failure in answer["failures"]), "")

    def end(self) -> None:
        """End the process as a case might: nothing else here knows of it yet."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process."""
        self.end()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(BrokenPipeError):
                process.communicate()

    def _asked(self, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the answer; None when the process died of it or had to be killed."""
        process = self._started()
        if process.stdin is None:
            raise RuntimeError("the worker has no input")
        line = None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._line(HANGS + 2.0 * request.get("count", 1))
        if line is None:
            self.close()
            return None
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is not None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._program, str(self._scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if self._line(_STARTS_IN) is None:
            self.close()
            raise RuntimeError("the worker does not start")
        return self._process

    def _line(self, seconds: float) -> str | None:
        """Return the next line of the process; None when none comes in time, or ever."""
        stdout = self._process.stdout if self._process is not None else None
        if stdout is None:
            return None
        ready, _, _ = select.select([stdout], [], [], seconds)
        return (stdout.readline() or None) if ready else None

    def _place(self, generator: str, seed: int) -> int:
        """Return the seed of the case that the process was at; the first if it never began."""
        note = self._scratch / worker.NOTE
        name, _, said = (note.read_text() if note.exists() else "").strip().rpartition(" ")
        return max(seed, int(said)) if name == generator and said.isdigit() else seed


def _add(done: Batch, answer: Mapping[str, Any]) -> None:
    done.outcomes.update(answer["outcomes"])
    done.failures += [Failure(one["name"], one["why"], one["case"]) for one in answer["failures"]]
