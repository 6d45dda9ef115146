"""Inputs that change under a command: the output is of one input, or there is none."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands import Commands, Done
from tests.faults import places, writers
from tests.faults.writers import Writer


def held(source: Path) -> Path:
    """Return the file with the weights."""
    if source.is_dir():
        return next(source.glob("model-00001*"))
    beside = source.with_name("in.weights")
    return beside if beside.exists() else source


def actions(path: Path, folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what may become of the file meanwhile; `folder` holds what takes its place."""
    data = path.read_bytes()
    other = bytearray(data)
    other[-1] ^= 1
    spare, target = folder / "spare", folder / "target"
    spare.write_bytes(other)
    target.write_bytes(other)
    return {
        "vanished": ("remove", str(path)),
        "written to": ("write", str(path), "x" * len(data)),
        "cut short": ("write", str(path), "x"),
        "replaced": ("replace", str(path), str(spare)),
        "a link to another": ("link", str(path), str(target)),
    }


CHANGES = ("vanished", "written to", "cut short", "replaced", "a link to another")


def event_of(done: Done, matches: Callable[[str], bool]) -> int:
    return next(at for at, event in enumerate(done.events, 1) if matches(event))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("writer", writers.CLIPS, ids=lambda writer: writer.name)
def test_between_reading_and_copying(
    writer: Writer, change: str, tmp_path: Path, commands: Commands
) -> None:
    """When the hidden folder is made: everything is measured, nothing is copied."""
    place, out, spare = tmp_path / "in", tmp_path / "out", tmp_path / "spare"
    for folder in (place, out, spare):
        folder.mkdir()
    source = writer.build(place)
    line = writer.arguments(source, out)
    good = commands.run(*line, folder=tmp_path)
    assert good.code == 0, good
    places.put_back(out, {})
    made = event_of(good, lambda event: event.startswith("os.mkdir"))
    action = actions(held(source), spare)[change]
    done = commands.run(*line, folder=tmp_path, event=made, action=action)
    places.assert_refused(done)
    words = ("no such file", "changed since", "changed while", "shrank while")
    assert any(word in done.stderr for word in words)
    assert not places.snapshot(out)


@pytest.mark.parametrize("change", ["written to", "replaced"])
def test_at_every_moment_of_a_clip(change: str, tmp_path: Path, commands: Commands) -> None:
    """The copy is one of the old input, or of the new one, or there is none: never of both."""
    place, out, other = tmp_path / "in", tmp_path / "out", tmp_path / "other"
    for folder in (place, out, other):
        folder.mkdir()
    source = writers.torch_zip(place)
    line = ("clip", source, "--to", "1", "-o", out / "out.pt")
    good = commands.run(*line, folder=tmp_path)
    before, wanted = source.read_bytes(), [places.snapshot(out)]
    changed = torch.diag(torch.tensor([8.0, 0.1, 0.75, *(0.5,) * 7]))
    torch.save(writers.STATE | {"0.weight": changed}, source)
    after = source.read_bytes()
    places.put_back(out, {})
    assert commands.run(*line).code == 0
    wanted.append(places.snapshot(out))
    assert wanted[0] != wanted[1]
    codes = set()
    for event in places.steps(good.events):
        places.put_back(out, {})
        source.unlink()
        source.write_bytes(before)
        (other / "new.pt").write_bytes(after)
        action = ("copy" if change == "written to" else "replace", source, other / "new.pt")
        done = commands.run(*line, folder=tmp_path, event=event, action=tuple(map(str, action)))
        if done.code:
            places.assert_refused(done)
            assert not places.snapshot(out), (event, good.events[event - 1])
        else:
            assert places.snapshot(out) in wanted, (event, good.events[event - 1])
        codes.add(done.code)
    assert codes == {0, 2}


@pytest.mark.parametrize("change", CHANGES)
def test_between_opening_and_measuring(change: str, tmp_path: Path, commands: Commands) -> None:
    """When the file is opened for the last time: its structure is read, its weights are not."""
    place, spare = tmp_path / "in", tmp_path / "spare"
    place.mkdir()
    spare.mkdir()
    source = writers.torch_zip(place)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    line = ("inspect", source, "-f", "json", "-o", tmp_path / "r.json")
    good = commands.run(*line, folder=place)
    truth = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert truth["models"][0]["sha256"] == digest
    (tmp_path / "r.json").unlink()
    assert set(good.events) == {f"open {source}"}
    assert len(good.events) > 1
    action = actions(source, spare)[change]
    done = commands.run(*line, folder=place, event=len(good.events), action=action)
    places.assert_refused(done)
    assert "changed while it was read" in done.stderr or "no such file" in done.stderr
    assert not (tmp_path / "r.json").exists()


def test_a_file_that_is_replaced_while_it_is_measured(tmp_path: Path, commands: Commands) -> None:
    """A training run saves the next one: the report is of the old one, and says so."""
    place, spare = tmp_path / "in", tmp_path / "spare"
    place.mkdir()
    spare.mkdir()
    source = writers.torch_zip(place)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    line = ("inspect", source, "-f", "json", "-o", place / "r.json")
    good = commands.run(*line, folder=place)
    (place / "r.json").unlink()
    made = event_of(good, lambda event: event.startswith("os.mkdir"))
    done = commands.run(*line, folder=place, event=made, action=actions(source, spare)["replaced"])
    assert done.code == 0
    report = json.loads((place / "r.json").read_text(encoding="utf-8"))
    assert report["models"][0]["sha256"] == digest
