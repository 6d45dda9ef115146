"""Writing: whole or not at all, never over the input, never over another file unasked."""

import errno
import os
from pathlib import Path

import pytest

from lipaudit.errors import WriteRefused
from lipaudit.formats import renaming
from lipaudit.formats.atomic import staged
from lipaudit.formats.base import ChangedFile, Edit


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "in.bin"
    path.write_bytes(bytes(range(100)))
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(original: Path, target: Path, *, force: bool = False, name: str = "") -> None:
    edits = (Edit(3, b"abc"), Edit(98, b"zz"))
    with staged(target, originals=[original], force=force) as stage:
        stage.write([ChangedFile(original, name, edits)])
        stage.commit(originals=[original], force=force)


def test_the_copy_differs_only_in_the_edits(original: Path) -> None:
    target = original.with_name("out.bin")
    write(original, target)
    expected = bytearray(range(100))
    expected[3:6], expected[98:100] = b"abc", b"zz"
    assert target.read_bytes() == bytes(expected)
    assert original.read_bytes() == bytes(range(100))
    assert sorted(snapshot(original.parent)) == ["in.bin", "out.bin"]


def test_an_existing_file_needs_force(original: Path) -> None:
    target = original.with_name("out.bin")
    target.write_bytes(b"old")
    with pytest.raises(WriteRefused, match="exists already"):
        write(original, target)
    assert target.read_bytes() == b"old"
    write(original, target, force=True)
    assert target.read_bytes()[3:6] == b"abc"


@pytest.mark.parametrize("force", [False, True])
def test_the_input_is_never_the_output(original: Path, *, force: bool) -> None:
    link = original.with_name("link.bin")
    link.symlink_to(original)
    for target in (original, link):
        with pytest.raises(WriteRefused, match="is the input itself"):
            write(original, target, force=force)
    assert original.read_bytes() == bytes(range(100))


def test_a_missing_folder_is_named(original: Path) -> None:
    with pytest.raises(WriteRefused, match="no such folder"):
        write(original, original.parent / "nowhere" / "out.bin")


def test_a_target_that_is_a_folder_is_refused(original: Path) -> None:
    folder = original.parent / "sub"
    folder.mkdir()
    with pytest.raises(WriteRefused):
        write(original, folder, force=True)


def test_nothing_is_left_when_the_caller_fails(original: Path) -> None:
    before = snapshot(original.parent)
    target = original.with_name("out.bin")

    def interrupted() -> None:
        with staged(target, originals=[original], force=False) as stage:
            stage.write([ChangedFile(original, "", ())])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert snapshot(original.parent) == before
    assert [path.name for path in original.parent.iterdir()] == ["in.bin"]


def test_a_dry_run_leaves_the_target_folder_alone(original: Path) -> None:
    target = original.parent / "nowhere" / "out.bin"
    with staged(target, originals=[original], force=False, may_write=False) as stage:
        stage.write([ChangedFile(original, "", (Edit(0, b"X"),))])
        assert stage.main.read_bytes()[:1] == b"X"
    assert [path.name for path in original.parent.iterdir()] == ["in.bin"]


def test_half_an_output_is_never_placed(original: Path) -> None:
    sidecar = original.with_name("weights.bin")
    sidecar.write_bytes(b"0123456789")
    folder = original.parent / "out"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"somebody else's")
    target = folder / "model.onnx"

    def write_both() -> None:
        with staged(target, originals=[original, sidecar], force=False) as stage:
            stage.write([ChangedFile(original, "", ()), ChangedFile(sidecar, "weights.bin", ())])
            stage.commit(originals=[original, sidecar], force=False)

    with pytest.raises(WriteRefused, match="exists already"):
        write_both()
    assert snapshot(folder) == {"weights.bin": b"somebody else's"}


def test_a_folder_appears_whole(original: Path) -> None:
    target = original.parent / "copy"
    write(original, target, name="shard-1.bin")
    assert list(snapshot(target)) == ["shard-1.bin"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteRefused, match="No space left"):
        write(original, original.with_name("out.bin"))
    assert [path.name for path in original.parent.iterdir()] == ["in.bin"]


def test_file_mode_follows_the_umask(original: Path) -> None:
    old = os.umask(0o027)
    try:
        target = original.with_name("out.bin")
        write(original, target)
        assert target.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.parametrize("renames", [True, False])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_system_without_hard_links(
    original: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool, renames: bool
) -> None:
    without_links(monkeypatch)
    if not renames:
        monkeypatch.setattr(renaming, "without_replacing", lambda *_: False)
    target = original.with_name("out.bin")
    if force:
        target.write_bytes(b"old")
    write(original, target, force=force)
    assert target.read_bytes()[3:6] == b"abc"
    if not force:
        with pytest.raises(WriteRefused, match="exists already"):
            write(original, target)
    assert sorted(snapshot(original.parent)) == ["in.bin", "out.bin"]


def test_without_hard_links_no_empty_file_ever_holds_the_name(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    target = original.with_name("out.bin")
    plain = Path.open

    def opened(path: Path, mode: str = "r", **options: object) -> object:
        assert path != target
        return plain(path, mode, **options)  # type: ignore[call-overload]  # as it was called

    monkeypatch.setattr(Path, "open", opened)
    write(original, target)
    assert target.stat().st_size == 100


def test_a_rename_that_finds_something_in_its_place_leaves_both(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new")
    old.write_text("old")
    with pytest.raises(FileExistsError):
        renaming.without_replacing(new, old)
    assert snapshot(tmp_path) == {"new": b"new", "old": b"old"}
    assert renaming.without_replacing(new, tmp_path / "free")
    assert snapshot(tmp_path) == {"free": b"new", "old": b"old"}


@pytest.mark.parametrize("steps", ["link", "rename", "neither"])
@pytest.mark.parametrize("old", [True, False])
def test_what_was_moved_comes_back(
    original: Path, monkeypatch: pytest.MonkeyPatch, *, steps: str, old: bool
) -> None:
    """The second of two files cannot be placed: the first is taken back, or its old one put."""
    sidecar, target = original.with_name("w.bin"), original.with_name("out.bin")
    sidecar.write_bytes(b"0123456789")
    if old:
        target.write_bytes(b"old main")
        (original.parent / "data").mkdir()
        (original.parent / "data" / "w.bin").write_bytes(b"old data")
    before = snapshot(original.parent)
    link, move, rename = os.link, Path.replace, renaming.without_replacing

    def renamed(path: Path, place: Path) -> bool:
        if steps == "rename" and place == target:
            raise OSError(errno.EIO, "Input/output error")
        return steps == "rename" and rename(path, place)

    def linked(path: Path, place: Path, **options: bool) -> None:
        if steps != "link":
            raise OSError(errno.EPERM, "Operation not permitted")
        if place == target:
            raise OSError(errno.EIO, "Input/output error")
        link(path, place, **options)

    def moved(path: Path, place: Path) -> Path:
        if place == target and path.name == target.name:
            raise OSError(errno.EIO, "Input/output error")
        return move(path, place)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "replace", moved)
    monkeypatch.setattr(renaming, "without_replacing", renamed)

    def write_both() -> None:
        with staged(target, originals=[original, sidecar], force=old) as stage:
            files = [ChangedFile(original, "", ()), ChangedFile(sidecar, "data/w.bin", ())]
            stage.write(files)
            stage.commit(originals=[original, sidecar], force=old)

    with pytest.raises(WriteRefused, match="Input/output error"):
        write_both()
    assert snapshot(original.parent) == before
    assert (original.parent / "data").exists() == old
