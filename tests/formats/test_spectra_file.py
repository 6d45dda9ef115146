"""Spectra as a file: every array under a plain key, the true names in an index."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from lipaudit.enclosure import Rigor
from lipaudit.errors import WriteRefused
from lipaudit.formats import spectra_file
from lipaudit.formats.spectra_file import Exported
from lipaudit.operators.spectrum import Spectrum

HOSTILE = [
    "conv1.weight", "conv1.weight", "CONV1.weight", "../../etc/passwd", "/abs", "a/b", "a\\b",
    "", ".", "..", ".hidden", "-rf", "file", "allow_pickle", "__keys__", "__NAMES__", "C:\\x",
    "nul\x00byte", "\u202egnp", "\ud800", "слой", "層", "x" * 1_000_000, "layer", "a_b", "arr_0",
]  # fmt: skip


def spectrum(*values: float) -> Spectrum:
    array = np.array(values, dtype=np.float64)
    return Spectrum(array, len(values), len(values) + 1, Rigor.PROVED, 1e-9, "SVD")


def exported(names: list[str]) -> list[Exported]:
    return [Exported("m.pt", name, spectrum(at + 1.0, 0.5)) for at, name in enumerate(names)]


def write(path: Path, names: list[str], *, force: bool = False) -> None:
    spectra_file.write(path, exported(names), models=[path.parent / "m.pt"], force=force)


def test_arrays_come_back_by_name_and_whole(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", ["conv1", "block.fc"])
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert found["conv1"].dtype == np.float64
        assert found["conv1"].tolist() == [1.0, 0.5]
        assert found["block.fc"].tolist() == [2.0, 0.5]
        assert found["__names__"].tolist() == found["__keys__"].tolist() == ["conv1", "block.fc"]
        assert found["__models__"].tolist() == ["m.pt", "m.pt"]
        assert found["__rigor__"].tolist() == ["proved", "proved"]
        assert found["__radius__"].tolist() == [1e-9, 1e-9]
        assert found["__complete__"].tolist() == [True, True]
        assert found["__of__"].tolist() == ["the layer", "the layer"]


def test_hostile_and_colliding_names_get_plain_keys_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", HOSTILE)
    members = zipfile.ZipFile(tmp_path / "s.npz").namelist()
    assert len({member.lower() for member in members}) == len(members) == len(HOSTILE) + 8
    for member in members:
        assert len(member) < 120
        assert not set(member) & set("/\\:\x00")
        assert not member.startswith((".", "-"))
        assert member.isascii()
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        keys, names = found["__keys__"].tolist(), found["__names__"].tolist()
        assert found[keys[3]].tolist() == [4.0, 0.5]
        assert names[3] == "../../etc/passwd"
        for at, key in enumerate(keys):
            assert found[key][0] == at + 1
    assert (tmp_path / "s.npz").stat().st_size < 100_000, "one long name must not widen them all"


def test_an_ordinary_name_is_its_own_key() -> None:
    names = ["layer1.0.conv1", "fc", "_orig_mod.x", "h.11.attn"]
    assert spectra_file.keys(names) == names


def test_thousands_of_equal_names_do_not_take_for_ever() -> None:
    assert len(set(spectra_file.keys(["x"] * 2000))) == 2000


def test_nothing_is_replaced_without_force_and_never_a_model(tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(b"mine")
    with pytest.raises(WriteRefused, match="exists already"):
        write(tmp_path / "s.npz", ["a"])
    assert (tmp_path / "s.npz").read_bytes() == b"mine"
    write(tmp_path / "s.npz", ["a"], force=True)
    (tmp_path / "m.pt").write_bytes(b"a model")
    with pytest.raises(WriteRefused, match="is the input itself"):
        write(tmp_path / "m.pt", ["a"], force=True)
    assert (tmp_path / "m.pt").read_bytes() == b"a model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "s.npz"]


def test_no_spectra_are_a_file_too(tmp_path: Path) -> None:
    write(tmp_path / "s.npz", [])
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert found["__keys__"].tolist() == []
