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

NEARLY = "nearly full"
PAGE = 4096
SAYS = {
    NEARLY: ("No space left on device",),
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
    """Mount a file system without room, with one page of it, or one that takes nothing."""
    place = tmp_path_factory.mktemp("disk")
    if not mounted("-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)):
        pytest.skip("the system does not let a file system be mounted")
    try:
        if request.param != "read-only":
            (place / "fills").write_bytes(bytes(PAGE if request.param == NEARLY else 2 * PAGE))
        elif not mounted("-o", "remount,ro", str(place)):
            pytest.skip("the system does not let a file system be mounted read-only")
        yield place
    finally:
        subprocess.run([shutil.which("umount") or "umount", place], check=True)


def run(
    writer: Writer,
    folder: Path,
    out: Path,
    commands: Commands,
    limit: int | None = None,
    *,
    humble: bool = False,
) -> Done:
    source = writer.build(folder)
    before = places.snapshot(folder)
    done = commands.run(
        *writer.arguments(source, out),
        environment=writer.environment(source, out),
        limit=limit,
        humble=humble,
    )
    assert places.snapshot(folder) == before
    return done


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_disk_that_takes_nothing_or_little(
    writer: Writer, disk: Path, tmp_path: Path, commands: Commands
) -> None:
    before = places.snapshot(disk)
    kind = {0: "read-only", PAGE: NEARLY}.get(sum(map(len, filter(None, before.values()))), "full")
    done = run(writer, tmp_path, disk, commands)
    if kind == NEARLY and done.code == 0:  # all of it takes one page
        assert all((disk / name).exists() for name in writer.outputs)
        places.put_back(disk, before)
        return
    places.assert_refused(done)
    assert any(cause in done.stderr for cause in SAYS[kind]), done
    after = places.snapshot(disk)
    places.put_back(disk, before)
    if kind == NEARLY and writer.name == "clip-report":  # one after the other: the copy stays
        after.pop("out.pt")
    assert after == before


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_limit_on_the_size_of_files(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    """The disk is full after no byte, one, half, and all but the last."""
    out = tmp_path / "out"
    out.mkdir()

    def limited(limit: int | None) -> Done:
        place = tmp_path / f"in-{len(list(tmp_path.iterdir()))}"  # some outputs name it
        place.mkdir()
        places.put_back(out, {})
        return run(writer, place, out, commands, limit)

    assert limited(None).code == 0
    largest = max(len(data) for data in places.snapshot(out).values() if data is not None)
    for limit in (0, 1, largest // 2, largest - 1):
        done = limited(limit)
        places.assert_refused(done, "File too large")
        assert not places.snapshot(out), limit


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_folder_without_permission(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    out.mkdir(mode=0o500)
    done = run(writer, place, out, commands, humble=os.geteuid() == 0)
    places.assert_refused(done)
    causes = ("Permission denied", *SAYS["read-only"])
    assert any(cause in done.stderr for cause in causes), done
    assert not places.snapshot(out)


@pytest.mark.parametrize("writer", writers.ALL, ids=lambda writer: writer.name)
def test_a_folder_that_is_not_there(writer: Writer, tmp_path: Path, commands: Commands) -> None:
    out = tmp_path / "gone"
    done = run(writer, tmp_path, out, commands)
    places.assert_refused(done)
    assert not out.exists()
