"""Real schedulers and workers of Dask, in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Process = subprocess.Popen[bytes]


def _silently(module: str, *options: str, folder: Path | None = None, **variables: str) -> Process:
    # Dask's page of statistics listens on every address, which the tests' own guard refuses.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(path for path in paths if Path(path).name != "offline")
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"],
        env={**os.environ, "PYTHONPATH": kept, **variables},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def started(folder: Path) -> Iterator[tuple[str, Process]]:
    """Start a scheduler without workers; yield its address and its process."""
    place = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place)]
    process = _silently("dask_scheduler", *options)
    until = time.monotonic() + 60
    while not place.exists() and time.monotonic() < until:
        time.sleep(0.1)
    try:
        yield json.loads(place.read_text())["address"], process
    finally:
        process.kill()
        process.wait()


@contextmanager
def joined(
    address: str, *, nanny: bool = False, folder: Path | None = None, **variables: str
) -> Iterator[Process]:
    """Start a worker; without a nanny nobody starts it anew. Modules in `folder` come first."""
    options = [address, "--nthreads", "1", "--nanny" if nanny else "--no-nanny"]
    process = _silently("dask_worker", *options, folder=folder, **variables)
    try:
        yield process
    finally:
        process.terminate()  # so that a nanny ends its worker
        process.wait()
