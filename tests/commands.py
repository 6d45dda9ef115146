"""Commands run in processes of their own, without each of them importing torch anew.

A server imports lipaudit once and forks for every command, which then runs `main` like
`python -m lipaudit`. On request something happens to it at the n-th event in which Python
touches a folder, or at every event of a name: a signal, a full disk, or a change of the files
there. The processor time of a command is measured, which says the same on a busy machine, and
how much memory it took beyond what it was forked with; one that does not end is killed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_SERVER = """
import ctypes, gc, json, os, resource, signal, sys, tempfile
from pathlib import Path
import torch
import lipaudit.api, lipaudit.report.catalog
from lipaudit.__main__ import _run, main

def happen(action):
    kind, *details = action
    if kind == "signal":
        os.kill(os.getpid(), details[0])
    elif kind == "full":
        raise OSError(28, "No space left on device")
    elif kind == "broken":
        raise OSError(5, "Input/output error")
    elif kind == "write":
        Path(details[0]).write_bytes(details[1].encode())
    elif kind == "remove":
        Path(details[0]).unlink()
    elif kind == "replace":
        os.replace(details[1], details[0])
    elif kind == "copy":
        Path(details[0]).write_bytes(Path(details[1]).read_bytes())
    elif kind == "link":
        Path(details[0]).unlink()
        Path(details[0]).symlink_to(details[1])

def watch(folder, event, action, log):
    seen = 0
    def step(name, paths):
        nonlocal seen
        if not any(str(path).startswith(folder) for path in paths):
            return
        seen += 1
        os.write(log, os.fsencode(name + " " + " ".join(map(str, paths)) + chr(10)))
        if event in (seen, name):
            happen(action)
    def hook(name, details):
        if name.startswith(("open", "os.")) and name != "os.kill":
            parts = (part for part in details if isinstance(part, (str, os.PathLike)))
            step(name, [os.fspath(part) for part in parts])
    def fsync(descriptor, really=os.fsync):  # of which Python tells nobody
        step("os.fsync", [os.readlink(f"/proc/self/fd/{descriptor}")])
        really(descriptor)
    sys.addaudithook(hook)
    os.fsync = fsync

def humble():
    # What root may beyond others is left out, CAP_DAC_OVERRIDE: man 7 capabilities.
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        sys.exit("capget")
    for at in range(3):
        sets[at] &= ~(1 << 1)
    if libc.capset(header, sets):
        sys.exit("capset")

def child(job, start, pipes):
    os.write(start, str(held()).encode())
    for stream, path in ((1, job["stdout"]), (2, job["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    for stream, (_, end) in enumerate(pipes, 1):
        os.dup2(end, stream)
    if job["unread"]:
        left, printed = os.pipe()
        os.close(left)
        os.dup2(printed, 1)
    os.chdir(job["cwd"])
    if job["humble"]:
        humble()
    if job["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    if job["seconds"]:
        # Without a handler, so that nothing can catch it.
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    os.environ.update(job["environment"])
    encoding = job["environment"].get("PYTHONIOENCODING")
    if encoding:  # which a new process takes from there
        sys.stdout.reconfigure(encoding=encoding)
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
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
    torch.save(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 4)), folder + "/whole.pt")
    lipaudit.api.bound(folder + "/whole.pt")
    sys.argv = ["lipaudit", "inspect", folder + "/in.pt", "-f", "html", "-o", folder + "/page"]
    sys.argv += ["--plots", folder + "/plots", "--export", folder + "/spectra.npz"]
    if _run():
        sys.exit("the server cannot run a command")

def held():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize()

gc.collect()
gc.freeze()
for line in sys.stdin:
    job = json.loads(line)
    reader, writer = os.pipe()
    # A limit on files would hold for these as well; a pipe takes 64 KB that nobody reads yet.
    pipes = [os.pipe() for _ in range(2)] if job["limit"] is not None else []
    pid = os.fork()
    if not pid:
        try:
            child(job, writer, pipes)
        finally:
            os._exit(99)
    _, status, used = os.wait4(pid, 0)
    os.close(writer)
    for (start, end), name in zip(pipes, ("stdout", "stderr")):
        os.close(end)
        with open(start, "rb") as said:
            Path(job[name]).write_bytes(said.read())
    # A child starts without the files its parent has mapped: less than the parent holds.
    before = int(os.read(reader, 99))
    os.close(reader)
    took, most = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    print(os.waitstatus_to_exitcode(status), took, most - before, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    stdout: str
    stderr: str
    events: tuple[str, ...]
    """In which the watched folder was touched, in order."""
    seconds: float
    """Of processor time."""
    memory: int
    """Bytes it held at most, beyond what it was forked with."""


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
        limit: int | None = None,
        folder: Path | None = None,
        event: int | str = 0,
        action: tuple[Any, ...] = (),
        seconds: float = 0.0,
        environment: Mapping[str, str] | None = None,
        unread: bool = False,
        humble: bool = False,
    ) -> Done:
        """Run `lipaudit` with these arguments; `limit` is the largest file it may write.

        After so many seconds, unless 0, it is killed by a signal, which its code then names.
        `unread` gives it a pipe for stdout that nobody reads any more; `humble` takes from root
        what only root may do with files.
        """
        places = {name: self._scratch / name for name in ("stdout", "stderr", "log")}
        job = {name: str(path) for name, path in places.items()} | {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or self._scratch),
            "limit": limit,
            "folder": str(folder or self._scratch / "nothing"),
            "event": event,
            "action": action,
            "seconds": seconds,
            "environment": dict(environment or {}),
            "unread": unread,
            "humble": humble,
        }
        requests, answers = self._pipes()
        requests.write(json.dumps(job) + "\n")
        requests.flush()
        code, took, memory = answers.readline().split()
        log = os.fsdecode(places["log"].read_bytes()).splitlines()
        return Done(
            int(code),
            places["stdout"].read_text(),
            places["stderr"].read_text(),
            tuple(log),
            float(took),
            int(memory),
        )

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
