"""Terminals, pipes and homes that are not what a program hopes for: quiet, plain, and no needs."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests import offline
from tests.hostile import written

COMMAND = [sys.executable, "-m", "lipaudit"]
CLOSED_PIPE = 141


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written.file("model.safetensors", written.tensors())(tmp_path)


def surroundings(**environment: str | None) -> dict[str, str]:
    """Return this process's environment with some variables set, or unset (None)."""
    fixed = {"PYTHONPATH": offline.PATH, "OMP_NUM_THREADS": "1"}
    known: dict[str, str | None] = {**os.environ, **fixed}
    return {key: value for key, value in (known | environment).items() if value is not None}


def run(*arguments: str | Path, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        env=surroundings(**environment),
    )


@pytest.mark.parametrize("report", ["table", "json", "html", "csv"])
def test_a_reader_that_leaves_is_left_in_peace(report: str, model: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "inspect", str(model), "-f", report],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == CLOSED_PIPE
    assert said == b""


def test_a_full_disk_behind_stdout_is_an_error(model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "inspect", str(model)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env=surroundings(),
        )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line == ("lipaudit: error: standard output: cannot be written: No space left on device")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- 2>&-"])
def test_closed_streams(closed: str, model: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "inspect", str(model)],
        capture_output=True,
        check=False,
        timeout=60,
        env=surroundings(),
    )
    assert b"Traceback" not in done.stderr
    if ">&-" in closed.replace("2>&-", ""):
        # Nobody could have read the report: that is no success.
        assert done.returncode == 2
        assert b"standard output" in done.stderr
    else:
        assert done.returncode == 0
        assert b"fc" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("bound",), ("inspect", "--plot"), ("inspect", "-f", "markdown")]
)
def test_the_c_locale_gets_ascii(arguments: tuple[str, ...], model: Path) -> None:
    name, *options = arguments
    done = run(
        name,
        model,
        *options,
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
        LANG=None,
        COLUMNS="300",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("utf-8" if "markdown" in options else "ascii")
    assert "model.safetensors" in text


def test_an_error_in_the_c_locale(tmp_path: Path) -> None:
    done = run("inspect", tmp_path / "größe.pt", LC_ALL="C", PYTHONUTF8="0", LANG=None)
    assert done.returncode == 2
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.startswith("lipaudit: error: ")
    assert "no such file" in line


@pytest.mark.parametrize("columns", [20, 1])
@pytest.mark.parametrize("command", ["inspect", "bound"])
def test_a_narrow_terminal(command: str, columns: int, model: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, command, model.name],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=model.parent,
        env=surroundings(COLUMNS=None, NO_COLOR="1", TERM="xterm"),
    )
    os.close(follower)
    said = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(leader)
    assert process.wait(timeout=60) == 0, said
    assert b"Traceback" not in said
    assert b"3" in said


@pytest.mark.parametrize(
    "home",
    [
        {"HOME": "/proc"},
        {"HOME": "/dev/null"},
        {"HOME": "/no/such/folder"},
        {"HOME": None},
        {"HOME": "/proc", "TMPDIR": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_HOME": "/proc"},
    ],
    ids=str,
)
def test_no_home_is_needed(home: dict[str, str | None], model: Path) -> None:
    done = run("inspect", model, "-f", "html", **home)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("variable", ["COLUMNS", "LINES", "TERM", "LANG", "LIPAUDIT_CONFIG"])
def test_noise_in_the_environment(variable: str, model: Path) -> None:
    done = run("inspect", model, **{variable: "\x1b[2J999999999999999999999"})
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout + done.stderr
