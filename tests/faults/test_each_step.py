"""A fault at every step of every writer: each output is old or complete, and nothing is left."""

import signal
from pathlib import Path

import pytest

from tests.commands import Commands, Done
from tests.faults import places, writers
from tests.faults.writers import Writer

INTERRUPTED = 130
ACTIONS = {
    "SIGINT": ("signal", int(signal.SIGINT)),
    "SIGTERM": ("signal", int(signal.SIGTERM)),
    "SIGKILL": ("signal", int(signal.SIGKILL)),
    "full disk": ("full",),
    "broken disk": ("broken",),
}


SAYS = {"full disk": "No space left on device", "broken disk": "Input/output error"}


class Case:
    """A writer in a folder of its own, run again and again."""

    def __init__(self, writer: Writer, folder: Path, commands: Commands, *, old: bool) -> None:
        self.writer, self.commands = writer, commands
        self.place = folder / "place"
        self.place.mkdir()
        self.source = writer.build(self.place)
        self.line = writer.arguments(self.source, self.place)
        self.variables = writer.environment(self.source, self.place)
        fresh = places.snapshot(self.place)
        self.old = old
        if old:
            assert self.run().code == 0
            self._spoil(fresh)
            if writer.name not in {"baseline", "summary"}:
                self.line.append("--force")
        self.before = places.snapshot(self.place)
        self.good = self.run()
        assert self.good.code == 0, self.good
        self.wanted = places.snapshot(self.place)
        assert self.wanted != self.before

    def _spoil(self, fresh: places.Snapshot) -> None:
        """Let older outputs differ from those that come."""
        for name, data in places.snapshot(self.place).items():
            if name not in fresh and data is not None:
                (self.place / name).write_bytes(data + b" ")

    def run(self, event: int = 0, action: tuple[object, ...] = ()) -> Done:
        return self.commands.run(
            *self.line,
            folder=self.place,
            event=event,
            action=action,
            environment=self.variables,
        )

    def fault(self, kind: str, event: int) -> None:
        """Let it happen, and look at what is there then."""
        places.put_back(self.place, self.before)
        done = self.run(event, ACTIONS[kind])
        where = (kind, event, self.good.events[event - 1], done)
        if kind == "SIGKILL":
            assert done.code == -signal.SIGKILL, where
            places.clear_hidden(self.place)
        elif kind in SAYS:
            if done.code:
                places.assert_refused(done, SAYS[kind])
            else:  # where the hidden folder is taken away, errors are ignored
                places.clear_hidden(self.place)
        else:
            assert done.code == INTERRUPTED, where
            assert not done.stderr, where
        self._look(places.snapshot(self.place), where, whole=kind != "SIGKILL")

    def _look(self, after: places.Snapshot, where: object, *, whole: bool) -> None:
        """Hold what is there against both: whole outputs, and all or none where one may ask."""
        allowed = (self.before, self.wanted)
        assert any(set(after) <= set(side) for side in (self.before | self.wanted,)), where
        for name, data in after.items():
            assert data in [side.get(name, b"none") for side in allowed], (name, where)
        for name in self.before:
            assert name in after, (name, where)
        several = len([n for n in self.wanted if self.wanted[n] != self.before.get(n, b"")]) > 1
        if not several or (whole and self.writer.name != "clip-report"):
            assert after in allowed, where


# Where several files are moved, or one is added to; the others take the way of one plain file,
# whose full set is in the tests of clip. SIGINT and SIGTERM take the same way.
SEVERAL = {"clip-shards", "clip-onnx-external", "clip-report", "reports", "plots", "baseline"}
WITH_OLD = {"clip-legacy", "clip-onnx", "clip-onnx-external", "output", "baseline", "summary"}


# Every single event: the others are tried at the first and the last event of each sort.
EVERY = {("clip-onnx", "full disk"), ("reports", "full disk"), ("reports", "SIGKILL")}


def cases() -> list[tuple[Writer, str, bool]]:
    """Return what is tried: every writer, and each kind of fault where it could differ."""
    found = []
    for writer in writers.ALL:
        if writer.name != "clip-torch":
            found.append((writer, "full disk", writer.name in WITH_OLD))
        if writer.name in SEVERAL:
            found.append((writer, "SIGKILL", writer.name in {"reports", "baseline"}))
        if writer.name in {"clip-onnx-external", "clip-report", "baseline"}:
            found.append((writer, "SIGTERM", writer.name == "clip-onnx-external"))
    found += [(w, "broken disk", False) for w in writers.ALL if w.name in SEVERAL]
    found += [(w, "SIGINT", True) for w in writers.ALL if w.name in {"reports", "summary"}]
    return found


@pytest.mark.parametrize(
    ("writer", "kind", "old"),
    cases(),
    ids=[f"{writer.name}-{kind}-{'old' if old else 'new'}" for writer, kind, old in cases()],
)
def test_at_each_step(
    writer: Writer, kind: str, tmp_path: Path, commands: Commands, *, old: bool
) -> None:
    case = Case(writer, tmp_path, commands, old=old)
    found = places.steps(case.good.events)
    if (writer.name, kind) in EVERY:
        found = list(range(1, len(case.good.events) + 1))
    assert len(found) >= 3
    assert any(event.startswith("os.fsync") for event in case.good.events)
    for event in found:
        case.fault(kind, event)
