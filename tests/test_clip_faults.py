"""Faults while a clipped copy is written: one line, exit 2, the old bytes, and nothing left.

What goes wrong is provoked from outside where that is possible (limits, mounts, links), and
else at each event in which the command touches the folder.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.commands import Commands, Done

INTERRUPTED = 130


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every file and folder with its bytes, links included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_refused(done: Done, cause: str) -> None:
    assert done.code == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("lipaudit: error: ")
    assert cause in line
    assert not done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    torch.manual_seed(0)
    torch.save({"0.weight": torch.randn(64, 64), "0.bias": torch.zeros(64)}, place / "in.pt")
    return place


@pytest.fixture
def external(tmp_path: Path) -> Path:
    place = tmp_path / "external"
    place.mkdir()
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, place / "in.onnx", save_as_external_data=True, size_threshold=0)
    return place


def test_a_full_disk_by_limit(folder: Path, commands: Commands) -> None:
    before = snapshot(folder)
    target = folder / "out.pt"
    done = commands.run("clip", folder / "in.pt", "--to", "1", "-o", target, limit=8192)
    assert_refused(done, "cannot be written: File too large")
    assert snapshot(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 kB; that takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)):
        pytest.skip("the system does not let a file system be mounted")
    yield place
    subprocess.run([shutil.which("umount") or "umount", place], check=True)


def mounted(*arguments: str) -> bool:
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return False
    return subprocess.run([mount, *arguments], check=False, capture_output=True).returncode == 0


def test_a_full_disk(folder: Path, small_disk: Path, commands: Commands) -> None:
    done = commands.run("clip", folder / "in.pt", "--to", "1", "-o", small_disk / "out.pt")
    assert_refused(done, "cannot be written: No space left on device")
    assert not snapshot(small_disk)


def test_a_read_only_file_system(folder: Path, small_disk: Path, commands: Commands) -> None:
    if not mounted("-o", "remount,ro", str(small_disk)):
        pytest.skip("the system does not let a file system be mounted read-only")
    arguments = ("clip", folder / "in.pt", "--to", "1", "-o", small_disk / "out.pt")
    assert_refused(commands.run(*arguments), "nothing may be written into")
    assert commands.run(*arguments, "--dry-run").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(folder: Path, commands: Commands) -> None:
    (folder / "locked").mkdir(mode=0o500)
    target = folder / "locked" / "out.pt"
    done = commands.run("clip", folder / "in.pt", "--to", "1", "-o", target)
    assert_refused(done, "Permission denied")


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize("way", ["in.pt", "./in.pt", "soft.pt", "hard.pt", "../place/in.pt"])
def test_output_is_input(
    way: str, force: tuple[str, ...], folder: Path, commands: Commands
) -> None:
    (folder / "soft.pt").symlink_to("in.pt")
    (folder / "hard.pt").hardlink_to(folder / "in.pt")
    before = snapshot(folder)
    done = commands.run("clip", "in.pt", "--to", "1", "-o", way, *force, cwd=folder)
    assert_refused(done, "is the input itself")
    assert snapshot(folder) == before
    assert (folder / "soft.pt").is_symlink()


BAD_TARGETS = {
    "folder": ("sub", "is a folder that exists"),
    "exists": ("old.pt", "exists already"),
    "dangling link": ("dangling.pt", "exists already"),
    "no parent": ("nowhere/out.pt", "no such folder"),
    "parent is a file": ("old.pt/out.pt", "no such folder"),
    "long name": ("x" * 300, "File name too long"),
    "no name": ("..", "is no name for an output"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_bad_targets(case: str, folder: Path, commands: Commands) -> None:
    name, cause = BAD_TARGETS[case]
    (folder / "sub").mkdir()
    (folder / "old.pt").write_bytes(b"precious")
    (folder / "dangling.pt").symlink_to("gone.pt")
    before = snapshot(folder)
    done = commands.run("clip", folder / "in.pt", "--to", "1", "-o", f"{folder}/{name}")
    assert_refused(done, cause)
    assert snapshot(folder) == before


def test_force_replaces_files_and_links_but_no_folder(folder: Path, commands: Commands) -> None:
    (folder / "sub").mkdir()
    (folder / "old.pt").write_bytes(b"old")
    (folder / "old.pt").chmod(0o640)
    (folder / "elsewhere.pt").write_bytes(b"precious")
    (folder / "link.pt").symlink_to("elsewhere.pt")
    for name, code in (("sub", 2), ("old.pt", 0), ("link.pt", 0)):
        done = commands.run("clip", folder / "in.pt", "--to", "1", "-o", folder / name, "--force")
        assert done.code == code
    assert (folder / "old.pt").stat().st_mode & 0o777 == 0o640
    assert not (folder / "link.pt").is_symlink()
    assert (folder / "link.pt").read_bytes() == (folder / "old.pt").read_bytes()
    assert (folder / "elsewhere.pt").read_bytes() == b"precious"
    assert not list(folder.glob(".lipaudit-*"))


ACTIONS = {
    "Ctrl-C": ("signal", int(signal.SIGINT)),
    "SIGTERM": ("signal", int(signal.SIGTERM)),
    "SIGKILL": ("signal", int(signal.SIGKILL)),
    "full disk": ("full",),
}


def put_back(folder: Path, before: dict[str, bytes | None]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in before:
            path.rmdir() if path.is_dir() else path.unlink()
    for name, data in before.items():
        if data is not None:
            (folder / name).write_bytes(data)


def check_each_step(
    commands: Commands, kind: str, folder: Path, arguments: tuple[str | Path, ...]
) -> None:
    """Let something happen at every event; afterwards the folder is as before or as wanted."""
    before = snapshot(folder)
    good = commands.run(*arguments, folder=folder)
    wanted = snapshot(folder)
    assert good.code == 0
    assert len(good.events) > 8
    assert wanted != before
    for event in range(1, len(good.events) + 1):
        put_back(folder, before)
        done = commands.run(*arguments, folder=folder, event=event, action=ACTIONS[kind])
        if kind == "SIGKILL":
            # Nobody cleans up after that: what is left is hidden, and the next run works.
            assert done.code == -signal.SIGKILL
            for left in folder.glob(".lipaudit-*"):
                shutil.rmtree(left)
        elif kind != "full disk":
            assert done.code == INTERRUPTED
            assert not done.stderr
        elif done.code:  # where the hidden folder is taken away, errors are ignored
            assert_refused(done, "No space left on device")
        else:
            for left in folder.glob(".lipaudit-*"):
                shutil.rmtree(left)
        after = snapshot(folder)
        if kind == "SIGKILL" and len(wanted) > len(before) + 1:
            after = {name: data for name, data in after.items() if not name.endswith("data")}
            assert after.items() <= wanted.items()
        assert after in (before, wanted), (event, good.events[event - 1])


@pytest.mark.parametrize("kind", ACTIONS)
def test_at_each_step(kind: str, folder: Path, commands: Commands) -> None:
    arguments = ("clip", folder / "in.pt", "--to", "1", "-o", folder / "out.pt")
    check_each_step(commands, kind, folder, arguments)


@pytest.mark.parametrize("kind", ["Ctrl-C", "full disk"])
@pytest.mark.parametrize("force", [False, True])
def test_at_each_step_with_two_files(
    kind: str, external: Path, commands: Commands, *, force: bool
) -> None:
    """Both files come, or none; and with --force both old ones stay, or none."""
    arguments = ("clip", external / "in.onnx", "--to", "1", "-o", external / "out.onnx")
    if force:
        (external / "out.onnx").write_bytes(b"old")
        (external / "out.onnx.data").write_bytes(b"old data")
    check_each_step(commands, kind, external, (*arguments, *(["--force"] if force else [])))


def test_the_target_appears_meanwhile(folder: Path, commands: Commands) -> None:
    arguments = ("clip", folder / "in.pt", "--to", "1", "-o", folder / "out.pt")
    before = snapshot(folder)
    events = commands.run(*arguments, folder=folder).events
    moved = next(at for at, event in enumerate(events, 1) if event.startswith("os.link"))
    for event in (2, moved - 1, moved):
        put_back(folder, before)
        action = ("write", str(folder / "out.pt"), "somebody else's")
        done = commands.run(*arguments, folder=folder, event=event, action=action)
        assert_refused(done, "exists")
        assert snapshot(folder) == {**before, "out.pt": b"somebody else's"}


@pytest.mark.parametrize("action", ["write", "remove"])
def test_the_input_changes_meanwhile(action: str, folder: Path, commands: Commands) -> None:
    """Between the reading and the copying: when the hidden folder is made."""
    arguments = ("clip", folder / "in.pt", "--to", "1", "-o", folder / "out.pt")
    events = commands.run(*arguments, folder=folder).events
    (folder / "out.pt").unlink()
    made = next(at for at, event in enumerate(events, 1) if event.startswith("os.mkdir"))
    path = folder / "in.pt"
    other = {
        "write": ("write", str(path), "x" * path.stat().st_size),
        "remove": ("remove", str(path)),
    }
    done = commands.run(*arguments, folder=folder, event=made, action=other[action])
    assert done.code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no such file" in done.stderr or "changed since it was read" in done.stderr
    assert set(snapshot(folder)) <= {"in.pt"}
