"""The store: what is kept is found whole, or not at all, whoever else writes or has been there."""

import multiprocessing
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from lipaudit.cache.store import LAYERS, REPORTS, Store

NAME = "ab" + "0" * 62
OTHER = "ab" + "1" * 62
BODY = b'{"any": "bytes", "even": "\n"}'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", warn=pytest.fail)


def place(store: Store, name: str = NAME, kind: str = LAYERS) -> Path:
    return store.folder / kind / name[:2] / name


def test_what_is_kept_is_found(store: Store) -> None:
    assert store.get(LAYERS, NAME) is None
    store.put(LAYERS, NAME, BODY)
    assert store.get(LAYERS, NAME) == BODY
    assert store.get(REPORTS, NAME) is None
    assert store.get(LAYERS, OTHER) is None
    store.put(LAYERS, NAME, b"")
    assert store.get(LAYERS, NAME) == b""
    assert pickle.loads(pickle.dumps(Store(store.folder))).get(LAYERS, NAME) == b""  # noqa: S301


def test_names_are_listed_the_last_used_first(store: Store) -> None:
    for age, name in enumerate((NAME, OTHER, f"{OTHER}-0")):
        store.put(LAYERS, name, BODY)
        os.utime(place(store, name), (age, age))
    assert store.names(LAYERS, "ab") == [f"{OTHER}-0", OTHER, NAME]
    assert store.names(LAYERS, OTHER) == [f"{OTHER}-0", OTHER]
    store.get(LAYERS, NAME)
    assert store.names(LAYERS, "ab")[0] == NAME
    assert store.names(LAYERS, "cd") == []


def test_nobody_else_may_look(store: Store) -> None:
    store.put(LAYERS, NAME, BODY)
    entry = place(store)
    assert entry.stat().st_mode & 0o777 == 0o600
    for folder in (store.folder, entry.parent.parent, entry.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def of_another_key(path: Path) -> None:
    path.rename(path.with_name(OTHER))
    path.with_name(OTHER).rename(path)
    path.write_bytes(path.read_bytes().replace(NAME.encode(), OTHER.encode()))


def linked(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def shelf_linked(path: Path) -> None:
    path.parent.rename(path.parent.parent.parent / "elsewhere")
    path.parent.symlink_to(path.parent.parent.parent / "elsewhere")


def of_another_user(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 4321, -1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": flipped,
    "its end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "its half": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "everything": lambda path: path.write_bytes(b""),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "the version": lambda path: path.write_bytes(path.read_bytes().replace(b"e 1 ", b"e 2 ")),
    "its key": of_another_key,
    "its place, a link": linked,
    "its writers": lambda path: path.chmod(0o620),
    "its owner": of_another_user,
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_entry_is_ignored_and_written_anew(store: Store, what: str) -> None:
    store.put(LAYERS, NAME, BODY)
    DAMAGES[what](place(store))
    assert store.get(LAYERS, NAME) is None
    store.put(LAYERS, NAME, BODY)
    assert store.get(LAYERS, NAME) == BODY
    assert not place(store).is_symlink()


def test_no_folder_is_reached_through_a_link(tmp_path: Path) -> None:
    complaints: list[str] = []
    store = Store(tmp_path / "cache", warn=complaints.append)
    store.put(LAYERS, NAME, BODY)
    shelf_linked(place(store))
    assert store.get(LAYERS, NAME) is None
    before = sorted((store.folder / "elsewhere").iterdir())
    store.put(LAYERS, OTHER, BODY)
    store.clear()
    assert sorted((store.folder / "elsewhere").iterdir()) == before
    assert len(complaints) == 1


def test_the_cache_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "cache").symlink_to("large-disk")
    store = Store(tmp_path / "cache")
    store.put(LAYERS, NAME, BODY)
    assert store.get(LAYERS, NAME) == BODY


def test_the_least_used_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit=64 * 4096)
    names = [f"{count:02x}" + "0" * 62 for count in range(200)]
    for age, name in enumerate(names):
        store.put(LAYERS, name, BODY)
        if store.get(LAYERS, name) is not None:
            os.utime(place(store, name), (1000 + age, 1000 + age))
        if store.get(LAYERS, names[0]) is not None:
            os.utime(place(store, names[0]), (10**9, 10**9))
        assert store.size()[1] <= store.limit
    assert store.get(LAYERS, names[0]) == BODY, "it was used all the time"
    assert store.get(LAYERS, names[-1]) == BODY
    assert store.get(LAYERS, names[1]) is None
    assert store.size()[0] > 40


def test_an_entry_that_is_too_large_is_not_kept(store: Store) -> None:
    small = Store(store.folder, limit=80_000)
    small.put(LAYERS, NAME, bytes(20_000))
    assert small.get(LAYERS, NAME) is None
    store.put(LAYERS, NAME, bytes(20_000))
    assert small.get(LAYERS, NAME) is None


def test_only_its_own_files_are_thrown_away(store: Store) -> None:
    """The folder may be one that was named by mistake."""
    store.put(LAYERS, NAME, BODY)
    theirs = [
        store.folder / "notes.txt",
        store.folder / LAYERS / "ab" / "notes.txt",
        store.folder / LAYERS / "work" / NAME,
        store.folder / "objects" / "ab" / NAME,
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"precious")
    assert store.size()[0] == 1
    assert store.clear() == 1
    assert all(path.read_bytes() == b"precious" for path in theirs)
    assert store.get(LAYERS, NAME) is None


def test_what_a_killed_writer_left_goes_after_an_hour(store: Store) -> None:
    store.put(LAYERS, NAME, BODY)
    left, fresh = (place(store).with_name(f".{digit * 16}") for digit in "01")
    for path in (left, fresh):
        path.write_bytes(BODY)
    os.utime(left, (1, 1))
    Store(store.folder).put(LAYERS, OTHER, BODY)
    assert not left.exists()
    assert fresh.exists()


def write_often(folder: Path, mark: int) -> None:
    store = Store(folder, limit=1 << 20)
    for turn in range(50):
        store.put(LAYERS, NAME, bytes([mark]) * (1000 + turn))
        found = store.get(LAYERS, NAME)
        if found is not None and len(set(found)) != 1:
            os._exit(1)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path, mark)) for mark in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = Store(tmp_path).get(LAYERS, NAME)
    assert found in {bytes([mark]) * 1049 for mark in (1, 2)}
    assert [path.name for path in place(Store(tmp_path)).parent.iterdir()] == [NAME]


@pytest.mark.parametrize(("expected", "warnings"), [(True, 1), (False, 0)])
def test_no_usable_folder_is_no_cache(tmp_path: Path, expected: bool, warnings: int) -> None:
    (tmp_path / "file").write_bytes(b"")
    complaints: list[str] = []
    store = Store(tmp_path / "file" / "cache", warn=complaints.append, expected=expected)
    for _ in range(3):
        store.put(LAYERS, NAME, BODY)
    assert store.get(LAYERS, NAME) is None
    assert store.size() == (0, 0)
    assert len(complaints) == warnings


def fill_the_disk(folder: Path) -> None:
    complaints: list[str] = []
    store = Store(folder, warn=complaints.append, expected=False)
    store.put(LAYERS, NAME, BODY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    for _ in range(3):
        store.put(LAYERS, OTHER, bytes(1000))
    left = [path.name for path in (folder / LAYERS / "ab").iterdir()]
    sound = store.get(LAYERS, NAME) == BODY and store.get(LAYERS, OTHER) is None
    os._exit(0 if len(complaints) == 1 and left == [NAME] and sound else 1)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=fill_the_disk, args=(tmp_path,))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 0


def test_a_disk_that_may_only_be_read_still_gives(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(LAYERS, NAME, BODY)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert store.get(LAYERS, NAME) == BODY
