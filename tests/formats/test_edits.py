"""Edits of tensors that are windows on one storage."""

from pathlib import Path

import pytest
import torch

from lipaudit.errors import WriteRefused
from lipaudit.formats import edits, slots
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant, Slot
from lipaudit.graph.model import Model, Topology
from lipaudit.graph.node import Graph

STORED = torch.arange(12, dtype=torch.float32)


def model(folder: Path, **windows: tuple[tuple[int, ...], tuple[int, ...], int]) -> Model:
    path = folder / "weights.bin"
    path.write_bytes(b"head" + STORED.numpy().tobytes() + b"tail")
    source = Source(path)
    tensors: dict[str, Constant] = {}
    for name, (shape, strides, first) in windows.items():
        slot = Slot(path, 4, 48, "float32", shape, strides, first)
        tensors[name] = slots.stored(name, slot, source)
    return Model(str(path), "test", (path,), tensors, Graph((), {}), Topology.UNKNOWN)


def stored_after(found: Model, patch: dict[str, torch.Tensor]) -> torch.Tensor:
    (edit,) = edits.by_file(found, patch)[found.files[0]]
    assert edit.offset == 4
    return torch.frombuffer(bytearray(edit.data), dtype=torch.float32)


def test_two_windows_side_by_side(tmp_path: Path) -> None:
    found = model(tmp_path, low=((4,), (1,), 0), high=((2, 3), (1, 2), 6))
    after = stored_after(found, {"low": -torch.ones(4), "high": -torch.ones(2, 3) * 2})
    assert after.tolist() == [-1, -1, -1, -1, 4, 5, -2, -2, -2, -2, -2, -2]


def test_windows_that_overlap_and_agree(tmp_path: Path) -> None:
    found = model(tmp_path, matrix=((3, 4), (4, 1), 0), transposed=((4, 3), (1, 4), 0))
    new = STORED.reshape(3, 4) / 2
    assert stored_after(found, {"matrix": new, "transposed": new.T}).tolist() == (
        (STORED / 2).tolist()
    )


def test_windows_that_overlap_and_disagree(tmp_path: Path) -> None:
    found = model(tmp_path, matrix=((3, 4), (4, 1), 0), row=((4,), (1,), 4))
    patch = {"matrix": STORED.reshape(3, 4) / 2, "row": torch.zeros(4)}
    with pytest.raises(WriteRefused, match="'matrix' shares bytes"):
        edits.by_file(found, patch)


def test_storages_that_overlap(tmp_path: Path) -> None:
    found = model(tmp_path, whole=((12,), (1,), 0))
    part = Slot(found.files[0], 8, 8, "float32", (2,), (1,))
    tensors = {**found.tensors, "part": slots.stored("part", part, Source(found.files[0]))}
    both = Model("m", "test", found.files, tensors, found.graph, found.topology)
    with pytest.raises(WriteRefused, match="two tensors share bytes"):
        edits.by_file(both, {"whole": STORED, "part": torch.zeros(2)})
