"""Disks that are full, too small or read-only: one line, exit 2, the old bytes, nothing left."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands, Done
from tests.faults import places, writers
from tests.faults.writers import Writer

SAYS = {
    "full": ("No space left on device",),
    "read-only": (
        "nothing may be written into",
        "Read-only file system",
        "names no file that can be written",
    ),
}


def mounted(*arguments: str) -> bool:
    """Tell whether the system let us mount something; that takes root."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return False
    return subprocess.run([mount, *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module", params=SAYS)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Mount a file system without room, or one that takes nothing."""
    place = tmp_path_factory.mktemp("disk")
    if not mounted("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)):
        pytest.skip("the system does not let a file system be mounted")
    try:
        if request.param == "full":
            (place / "fills").write_bytes(bytes(4096))
        elif not mounted("-o", "remount,ro", str(place)):
            pytest.skip("the system does not let a file system be mounted read-only")
        yield place
    finally:
        subprocess.run([shutil.which("umount") or "umount", place], check=True)


def run(writer: Writer, folder: Path, out: Path, commands: Commands, limit: int = 0) -> Done:
    source = writer.build(folder)
    before = places.snapshot(folder)
    done = commands.run(
        *writer.arguments(source, out), environment=writer.environment(source, out), limit=limit
    )
    assert places.snapshot(folder) == before
    return done


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_disk_that_takes_nothing(
    writer: Writer, disk: Path, tmp_path: Path, commands: Commands
) -> None:
    before = places.snapshot(disk)
    full = bool(before)
    done = run(writer, tmp_path, disk, commands)
    places.assert_refused(done)
    assert any(cause in done.stderr for cause in SAYS["full" if full else "read-only"]), done
    assert places.snapshot(disk) == before


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_limit_on_the_size_of_files(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    done = run(writer, place, out, commands, limit=320)
    places.assert_refused(done, "File too large")
    assert not places.snapshot(out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_folder_without_permission(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    out.mkdir(mode=0o500)
    places.assert_refused(run(writer, place, out, commands), "Permission denied")
    assert not places.snapshot(out)


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_folder_that_is_not_there(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    out = tmp_path / "gone"
    done = run(writer, tmp_path, out, commands)
    places.assert_refused(done)
    assert not out.exists()
