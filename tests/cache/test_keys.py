"""Keys, hashes, and where the cache is."""

import hashlib
import os
from pathlib import Path

import pytest

from lipaudit.cache import hashing, keys, place


@pytest.mark.parametrize("size", [1, 4095, 4 << 20, (4 << 20) + 1, (12 << 20) + 7])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    data = os.urandom(size)
    path.write_bytes(data)
    assert hashing.of_files([path]) == hashlib.sha256(data).hexdigest()


def test_several_files_are_hashed_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode())
    each = "".join(hashlib.sha256(path.name.encode()).hexdigest() for path in paths)
    assert hashing.of_files(paths) == hashlib.sha256(each.encode()).hexdigest()
    assert hashing.of_files(paths[::-1]) != hashing.of_files(paths)


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
