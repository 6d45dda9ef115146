"""Commands run in processes of their own, without each of them importing torch anew.

A server imports lipaudit once and forks for every command, which then runs `main` like
`python -m lipaudit`. On request something happens to it at the n-th event in which Python
touches a folder: a signal, a full disk, or a change of the files there.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_SERVER = """
import json, os, resource, sys, tempfile
from pathlib import Path
import torch
import lipaudit.api, lipaudit.report.catalog
from lipaudit.__main__ import main

def happen(action):
    kind, *details = action
    if kind == "signal":
        os.kill(os.getpid(), details[0])
    elif kind == "full":
        raise OSError(28, "No space left on device")
    elif kind == "write":
        Path(details[0]).write_bytes(details[1].encode())
    elif kind == "remove":
        Path(details[0]).unlink()

def watch(folder, event, action, log):
    seen = 0
    def hook(name, details):
        nonlocal seen
        if not name.startswith(("open", "os.")) or name == "os.kill":
            return
        paths = [os.fspath(part) for part in details if isinstance(part, (str, os.PathLike))]
        if not any(str(path).startswith(folder) for path in paths):
            return
        seen += 1
        os.write(log, (name + " " + " ".join(map(str, paths)) + chr(10)).encode())
        if seen == event:
            happen(action)
    sys.addaudithook(hook)

def child(job):
    for stream, path in ((1, job["stdout"]), (2, job["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(job["cwd"])
    if job["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    watch(job["folder"], job["event"], job["action"], log)
    sys.argv = ["lipaudit", *job["arguments"]]
    try:
        main()
    except SystemExit as done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(done.code or 0)

# What is imported only when it is needed is needed by every command.
with tempfile.TemporaryDirectory() as folder:
    torch.save({"0.weight": torch.ones(64, 64), "0.bias": torch.ones(64)}, folder + "/in.pt")
    lipaudit.api.clip(folder + "/in.pt", to=1.0, output=folder + "/out.pt")
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            child(json.loads(line))
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    stdout: str
    stderr: str
    events: tuple[str, ...]
    """In which the watched folder was touched, in order."""


class Commands:
    """A running server; `scratch` is a folder for what the commands print."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads do not survive a fork
        )

    def run(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        limit: int = 0,
        folder: Path | None = None,
        event: int = 0,
        action: tuple[Any, ...] = (),
    ) -> Done:
        """Run `lipaudit` with these arguments; `limit` is the largest file it may write."""
        places = {name: self._scratch / name for name in ("stdout", "stderr", "log")}
        job = {name: str(path) for name, path in places.items()} | {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or self._scratch),
            "limit": limit,
            "folder": str(folder or self._scratch / "nothing"),
            "event": event,
            "action": action,
        }
        requests, answers = self._pipes()
        requests.write(json.dumps(job) + "\n")
        requests.flush()
        code = int(answers.readline())
        log = places["log"].read_text().splitlines()
        return Done(code, places["stdout"].read_text(), places["stderr"].read_text(), tuple(log))

    def close(self) -> None:
        """End the server."""
        requests, answers = self._pipes()
        requests.close()
        self._process.wait(timeout=60)
        answers.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the server has no pipes")
        return requests, answers
