"""Keys, hashes, and where the cache is."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from lipaudit.cache import hashing, keys, place
from lipaudit.formats.source import digest_of


def tree(data: bytes) -> str:
    """Return the digest of the digests of all blocks, and of what says how they were cut."""
    block = 4 << 20
    leaves = [
        hashlib.sha256(data[at : at + block]).hexdigest() for at in range(0, len(data), block)
    ]
    return hashlib.sha256(f"tree {block} {len(data)} {' '.join(leaves)}".encode()).hexdigest()


@pytest.mark.parametrize("size", [1, 4095, 4 << 20, (4 << 20) + 1, (12 << 20) + 7])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    data = os.urandom(size)
    path.write_bytes(data)
    with path.open("rb") as stream:
        plain = hashing.of_descriptor(stream.fileno(), size)
    assert plain == hashlib.sha256(data).hexdigest()
    assert hashing.tree_of_files([path]) == tree(data)
    for threads in (1, 2, 9):
        assert hashing.tree_of_memory(memoryview(data), threads) == tree(data)


def test_several_files_are_hashed_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode())
    each = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    assert digest_of(paths) == hashlib.sha256("".join(each).encode()).hexdigest()
    assert digest_of(paths[:1]) == each[0]
    trees = "".join(tree(path.name.encode()) for path in paths)
    assert hashing.tree_of_files(paths) == hashlib.sha256(trees.encode()).hexdigest()
    assert hashing.tree_of_files(paths[::-1]) != hashing.tree_of_files(paths)


def test_files_are_hashed_at_the_same_time() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    meeting = threading.Barrier(2, timeout=60)

    def hashed() -> str:
        meeting.wait()
        return "digest"

    assert hashing.of_each([hashed, hashed]) == hashlib.sha256(b"digestdigest").hexdigest()


def test_the_tree_comes_of_the_same_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path, size in zip(paths, (7, (8 << 20) + 5), strict=True):
        path.write_bytes(os.urandom(size))
    expected = hashing.tree_of_files(paths)
    with hashing.trees() as known:
        digest_of(paths)
    assert len(known) == 2

    def refuse(*_: object) -> None:
        pytest.fail("it is read again")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", refuse)
        assert hashing.tree_of_files(paths, known) == expected
    os.utime(paths[0], (1, 1))  # another state may hold other bytes
    assert hashing.tree_of_files(paths, known) == expected
    with hashing.trees() as other:
        pass
    digest_of(paths)
    assert not other, "nobody wants to know any more"


def test_a_file_that_changes_while_it_is_hashed_has_no_known_tree(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10 << 20))
    with hashing.trees() as known, path.open("rb") as stream:
        real = hashlib.sha256
        touched: list[Path] = []

        def touching(*data: object) -> object:
            if not touched:
                os.utime(path, (1, 1))
                touched.append(path)
            return real(*data)  # type: ignore[arg-type]

        with mock.patch.object(hashlib, "sha256", touching):
            hashing.of_descriptor(stream.fileno(), 10 << 20)
    assert touched
    assert not known


def test_a_tree_is_hashed_about_as_fast_as_this_machine_hashes(tmp_path: Path) -> None:
    """A loose limit, in the same process and in turns: a busy machine slows both alike."""
    size = 64 << 20
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    def least(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    plain, tree_of_file, tree_of_data = (
        min(taken)
        for taken in zip(
            *(
                (
                    least(lambda: hashlib.sha256(data)),
                    least(lambda: hashing.tree_of_files([path])),
                    least(lambda: hashing.tree_of_memory(memoryview(data), 2)),
                )
                for _ in range(5)
            ),
            strict=True,
        )
    )
    assert tree_of_file < 4 * plain
    assert tree_of_data < 4 * plain


@pytest.mark.parametrize("size", [10, 9 << 20])
def test_a_file_that_shrinks_is_no_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with path.open("rb") as stream, pytest.raises(EOFError):
        hashing.of_descriptor(stream.fileno(), size + 1)


def test_a_key_tells_everything_apart() -> None:
    texts = [(), ("a",), ("a", "b"), (["a", "b"],), ("ab",), ("1",)]
    things = [*texts, (1,), (1.0,), (True,), (None,)]
    assert len({keys.key(*thing) for thing in things}) == len(things)
    assert keys.key("a", 0.1) == keys.key("a", 0.1)


def test_the_program_is_part_of_the_setting(tmp_path: Path) -> None:
    source = tmp_path / "room" / "module.py"
    source.parent.mkdir()
    source.write_text("x = 1\n", encoding="utf-8")
    before = keys.program(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing that is run", encoding="utf-8")
    assert keys.program(tmp_path) == before
    source.write_text("x = 2\n", encoding="utf-8")
    edited = keys.program(tmp_path)
    source.rename(source.with_name("other.py"))
    assert len({before, edited, keys.program(tmp_path)}) == 3


def test_the_setting_names_every_version() -> None:
    said = " ".join(keys.setting())
    for word in (f"numerical {keys.NUMERICAL_VERSION}", "lipaudit", "python", "torch", "onnx"):
        assert word in said


def test_where_the_cache_is(tmp_path: Path) -> None:
    home = str(tmp_path)
    assert place.default({"HOME": home}, "linux") == tmp_path / ".cache" / "lipaudit"
    assert place.default({"HOME": home}, "darwin") == tmp_path / "Library/Caches/lipaudit"
    both = {"HOME": home, "XDG_CACHE_HOME": "/x"}
    assert place.default(both, "linux") == Path("/x/lipaudit")
    # The specification: a relative path is to be ignored.
    assert place.default({**both, "XDG_CACHE_HOME": "x"}) == place.default({"HOME": home})


@pytest.mark.parametrize("home", [None, "", "relative", "/nowhere/at/all", "/\0"])
def test_who_has_no_home_has_no_cache(home: str | None) -> None:
    assert place.default({} if home is None else {"HOME": home}) is None


def test_the_home_of_another_user_is_left_alone(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    os.chown(tmp_path, 4321, -1)
    assert place.default({"HOME": str(tmp_path)}) is None
