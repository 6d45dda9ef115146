"""Results that are kept from run to run: the same report, without working it out again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from torch import nn

from lipaudit import api, archive
from lipaudit.cache import hashing, keys
from lipaudit.cache.store import REPORTS, Store
from tests import offline, shared_models
from tests.cli.gated import Done, diagonal, fill, run, save

CACHE = "cache"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()  # the search for a config ends here
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIPAUDIT_CACHE", CACHE)
    fill(tmp_path)
    old(*(path for path in tmp_path.iterdir() if path.is_file()))
    return tmp_path


@pytest.fixture(autouse=True)
def audits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the paths that were really read."""
    read: list[str] = []
    real = api.load

    def counting(source: Any, **options: Any) -> Any:
        read.extend([source] if isinstance(source, str) else [])
        return real(source, **options)

    monkeypatch.setattr(api, "load", counting)
    return read


def old(*paths: Path | str) -> None:
    """Let the files be older than the run that is about to read them, as files are."""
    for path in paths:
        seen = Path(path).stat()
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns - 10**9))


def reports() -> list[Path]:
    return [path for path in Path(CACHE, REPORTS).rglob("*") if path.is_file()]


def twice(*arguments: str) -> tuple[Done, Done]:
    return run(*arguments), run(*arguments)


RUNS = {
    "inspect": ("inspect", "six.pt", "--power-iteration", "2"),
    "bound": ("bound", "six.pt", "--max", "7"),
    "check": ("check", "half.pt", "six.pt", "--max", "7"),
    "several": ("bound", "half.pt", "junk.pt", "six.pt"),
}


@pytest.mark.parametrize("form", ["json", "jsonl", "table", "html"])
@pytest.mark.parametrize("name", RUNS)
def test_a_second_run_says_the_same_and_reads_no_model(
    audits: list[str], name: str, form: str
) -> None:
    line = (*RUNS[name], "-f", form)
    plain = run(*line, "--no-cache")
    assert not Path(CACHE).exists()
    first = run(*line)
    del audits[:]
    second = run(*line)
    assert plain == first == second
    assert audits == (["junk.pt"] if "junk.pt" in line else [])


def records(done: Done) -> list[str]:
    lines = [json.loads(line) for line in done.out.splitlines()]
    return [line["name"] for line in lines if line["record"] == "measured"]


def test_layers_come_ahead_of_a_report_that_is_kept(audits: list[str]) -> None:
    """As they did when they were measured, the ones without a number at their place."""
    shared = diagonal(4.0, 2.0)
    bad = diagonal(float("nan"), 1.0)
    save(Path("mixed.pt"), diagonal(3.0, 1.0), bad, shared, bad, shared)
    old("mixed.pt")
    plain = run("inspect", "mixed.pt", "-f", "jsonl", "--no-cache")
    assert records(plain) == ["0", "1", "2", "3", "4"]
    run("inspect", "mixed.pt", "-f", "table")  # where nobody asks for them
    del audits[:]
    assert run("inspect", "mixed.pt", "-f", "jsonl") == plain
    assert not audits


def test_layers_that_cannot_come_ahead_as_they_did_are_measured(audits: list[str]) -> None:
    run("inspect", "six.pt")
    (entry,) = reports()
    store = Store(Path(CACHE))
    body = store.get(REPORTS, entry.name)
    assert body is not None
    parts = json.loads(body)
    assert parts[3] == []
    for order in ([0], None):
        parts[3] = order
        store.put(REPORTS, entry.name, json.dumps(parts).encode())
        del audits[:]
        run("inspect", "six.pt")
        assert not audits, "nobody is told"
        assert records(run("inspect", "six.pt", "-f", "jsonl")) == ["0", "2"]
        assert audits == ["six.pt"]


def test_a_first_run_reads_the_file_once_to_hash_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = hashing.tree_of_files

    def counting(paths: Any, known: Any = None) -> str:
        states = [hashing.state(path.stat()) for path in paths]
        read.extend(p for p, s in zip(paths, states, strict=True) if s not in (known or {}))
        return real(paths, known)

    monkeypatch.setattr(hashing, "tree_of_files", counting)
    for model in ("six.pt", sharded()):
        first = run("inspect", model)
        assert not read
        assert run("inspect", model) == first
        assert read
        read.clear()


@pytest.mark.parametrize(
    ("size", "limit"), [("1G", 1 << 30), ("500 MB", 500 << 20), (None, 256 << 20)]
)
def test_how_large_it_may_grow_can_be_said(
    monkeypatch: pytest.MonkeyPatch, size: str | None, limit: int
) -> None:
    monkeypatch.setenv("LIPAUDIT_CACHE_SIZE", size or "")
    assert f"of {limit / 2**20:,.1f} MiB at most" in run("cache").out
    assert json.loads(run("doctor", "--json").out)["cache"]["limit"] == limit
    assert "of 10.0 MiB at most" in run("cache", "--cache-size", "10M").out


@pytest.mark.parametrize("command", [("inspect", "six.pt"), ("bound", "six.pt"), ("cache",)])
def test_a_size_that_is_none_is_refused(command: tuple[str, ...]) -> None:
    for size in ("much", "-1G", "0"):
        done = run(*command, "--cache-size", size)
        assert done.code == 2
        assert f"{size!r} is no size of a cache" in done.complaints
        assert done.complaints.count("\n") == 1


def test_a_cache_keeps_to_its_size(audits: list[str]) -> None:
    for command in ("inspect", "bound"):
        run(command, "six.pt", "half.pt", "--cache-size", "80K")
    run("check", "six.pt", "--max", "7", "--cache-size", "80K")
    _, size = Store(Path(CACHE)).size()
    assert 0 < size <= 80 << 10
    del audits[:]
    run("check", "six.pt", "--max", "7", "--cache-size", "80K")
    assert not audits


@pytest.mark.parametrize(
    ("model", "gate", "code"),
    [
        ("six.pt", ("--max", "5.9"), 1),
        ("nan.pt", ("--max", "7"), 3),
        ("bare.pt", ("--max", "7"), 3),
    ],
)
def test_what_fails_fails_again(
    audits: list[str], model: str, gate: tuple[str, str], code: int
) -> None:
    first, second = twice("check", model, *gate, "-f", "json")
    assert first.code == second.code == code
    assert len(audits) == 1
    one, other = (json.loads(done.out)["findings"] for done in (first, second))
    assert one == other
    assert one[0]["rule"].startswith("LIP")


def test_another_limit_judges_the_same_report(audits: list[str]) -> None:
    """Layers' limits say nothing about what is measured; a bound's asks for advice."""
    assert run("inspect", "six.pt", "--max-norm", "3.1").code == 0
    assert run("inspect", "six.pt", "--max-norm", "2.9").code == 1
    assert len(audits) == 1


OPTIONS: dict[str, tuple[str, ...]] = {
    "inspect": (),
    "shape": ("--input-shape", "2"),
    "layers": ("--layers", "0"),
    "spectra": ("--no-spectra",),
    "svd": ("--svd",),
    "padding": ("--padding", "circular"),
    "steps": ("--power-iteration", "2"),
    "memory": ("--max-memory", "1G"),
    "device": ("--device", "cpu"),
}
BOUNDS: dict[str, tuple[str, ...]] = {
    "bound": (),
    "shape": ("--input-shape", "2"),
    "range": ("--input-range", "0,1"),
    "other range": ("--input-range", "0,2"),
    "running": ("--executed", "float32", "--input-radius", "1"),
    "from": ("--from", "1"),
    "to": ("--to", "1"),
    "limit": ("--max", "3"),
    "other limit": ("--max", "4"),
    "spectra": ("--spectra",),
}


@pytest.mark.parametrize(("command", "options"), [("inspect", OPTIONS), ("bound", BOUNDS)])
def test_every_option_is_part_of_the_key(
    audits: list[str], command: str, options: dict[str, tuple[str, ...]]
) -> None:
    for count, option in enumerate(options.values(), start=1):
        run(command, "six.pt", *option)
        assert len(audits) == count, option
    found = [run(command, "six.pt", *option) for option in options.values()]
    assert len(audits) == len(options)
    assert len({done.out for done in found}) > len(options) // 2, "each has a report of its own"


@pytest.mark.parametrize("what", ["NUMERICAL_VERSION", "__version__", "LIBRARIES", "program"])
def test_the_version_is_part_of_the_key(
    audits: list[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run("inspect", "six.pt")
    other = {"LIBRARIES": ("torch",), "program": lambda _: "edited"}
    with monkeypatch.context() as patched:
        patched.setattr(keys, what, other.get(what, 99))
        keys.setting.cache_clear()
        run("inspect", "six.pt")
    keys.setting.cache_clear()
    run("inspect", "six.pt")
    assert len(audits) == 2


def test_one_bit_of_the_file_is_part_of_the_key(audits: list[str]) -> None:
    torch.save({"a.weight": torch.eye(3)}, "m.pt", _use_new_zipfile_serialization=False)
    data = Path("m.pt").read_bytes()
    one = np.float32(1).tobytes()
    assert data.count(one) == 3
    for content in (data, data.replace(one, np.float32(1.0000001).tobytes(), 1), data):
        seen = Path("m.pt").stat()
        Path("m.pt").write_bytes(content)
        os.utime("m.pt", ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as a forger would
        run("inspect", "m.pt")
    assert len(audits) == 2, "the first and the second; the third is the first again"


def test_the_path_is_that_of_the_run(audits: list[str]) -> None:
    Path("sub").mkdir()
    first = json.loads(run("bound", "six.pt", "-f", "json").out)["models"][0]
    Path("six.pt").rename("sub/six.pt")
    second = json.loads(run("bound", "sub/six.pt", "-f", "json").out)["models"][0]
    assert len(audits) == 1
    assert (first.pop("path"), second.pop("path")) == ("six.pt", "sub/six.pt")
    assert first == second
    odd = json.loads(run("bound", "./sub//six.pt", "-f", "json").out)["models"][0]["path"]
    assert (
        odd
        == json.loads(run("bound", "./sub//six.pt", "-f", "json", "--no-cache").out)["models"][0][
            "path"
        ]
    )


def test_a_suffix_that_misleads_is_noted_for_each_name() -> None:
    run("inspect", "six.pt")
    Path("six.pt").rename("six.onnx")
    assert "whatever the suffix" in run("inspect", "six.onnx").out


def sharded() -> str:
    folder = Path("shards")
    folder.mkdir()
    index = {}
    for count, size in enumerate((3, 4)):
        name = f"model-{count}.safetensors"
        safetensors.torch.save_file({f"l{count}.weight": torch.eye(size)}, folder / name)
        index[f"l{count}.weight"] = name
    text = json.dumps({"weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    old(*folder.iterdir())
    return str(folder)


def external() -> str:
    folder = Path("external")
    folder.mkdir()
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "W")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    save_model(
        model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    old(*folder.iterdir())
    return str(folder / "m.onnx")


def doubled(path: Path) -> None:
    data = path.read_bytes()
    one, two = (np.float32(x).tobytes() for x in (1, 2))
    assert one in data
    path.write_bytes(data.replace(one, two, 1))


def linked_elsewhere(path: Path) -> None:
    path.rename("moved.bin")
    path.symlink_to(Path("moved.bin").absolute())


CHANGED: dict[str, tuple[Callable[[], str], str, Callable[[Path], object], int]] = {
    "a shard": (sharded, "shards/model-1.safetensors", doubled, 0),
    "a new file": (sharded, "shards/config.json", lambda path: path.write_text("{}"), 0),
    "no shard": (sharded, "shards/model-1.safetensors", Path.unlink, 2),
    "external data": (external, "external/w.bin", doubled, 0),
    "no external data": (external, "external/w.bin", Path.unlink, 2),
    "a link to it": (external, "external/w.bin", linked_elsewhere, 2),
    "its other name": (
        external, "external/w.bin", lambda path: os.link(path, "another name"), 0
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGED)
def test_every_file_of_a_model_is_part_of_the_key(audits: list[str], what: str) -> None:
    make, file, change, code = CHANGED[what]
    model = make()
    first, second = twice("inspect", model, "-f", "json")
    assert first == second
    assert len(audits) == 1
    change(Path(file))
    third = run("inspect", model, "-f", "json")
    assert third.code == code
    assert third != first
    assert third == run("inspect", model, "-f", "json", "--no-cache")


def test_data_is_part_of_the_key(audits: list[str]) -> None:
    for scale in (1.0, 1.0, 2.0):
        np.savez("data.npz", inputs=scale * np.eye(2))
        old("data.npz")
        run("bound", "six.pt", "--data", "data.npz")
    assert len(audits) == 2


def test_a_file_that_changes_meanwhile_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.inspect

    def slow(*sources: Any, **options: Any) -> Any:
        found = real(*sources, **options)
        os.utime("six.pt")
        return found

    monkeypatch.setattr(api, "inspect", slow)
    run("inspect", "six.pt")
    assert reports() == []


def test_a_file_that_changes_before_it_gets_its_name_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = archive._digest

    def replaced(files: Any, known: Any = None) -> str:
        Path("six.pt").write_bytes(Path("half.pt").read_bytes())
        return real(files, known)

    with monkeypatch.context() as patched:
        patched.setattr(archive, "_digest", replaced)
        run("inspect", "six.pt")
    assert reports() == []


def test_own_code_is_run_each_time(audits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("nets.py").write_text("from torch import nn\ndef make(): return nn.Linear(2, 2)\n")
    torch.save(nn.Linear(2, 2).state_dict(), "linear.pt")
    monkeypatch.syspath_prepend(Path.cwd())
    twice("bound", "linear.pt", "--model", "nets:make", "--input-shape", "2")
    assert len(audits) == 2
    assert reports() == []


def test_an_export_has_the_spectra_each_time(audits: list[str]) -> None:
    for name in ("one.npz", "two.npz"):
        assert run("inspect", "six.pt", "--export", name).code == 0
        with np.load(name) as arrays:
            assert len(arrays.files) >= 2
    assert len(audits) == 2


def test_plots_are_drawn_from_what_is_kept(audits: list[str]) -> None:
    for name in ("one", "two"):
        assert run("inspect", "six.pt", "--plots", name).code == 0
    assert len(audits) == 1
    one, two = ({p.name: p.read_bytes() for p in Path(name).iterdir()} for name in ("one", "two"))
    assert one
    assert one == two


def test_a_damaged_report_is_worked_out_again(audits: list[str]) -> None:
    first = run("bound", "six.pt")
    for damage in (b"", b"[]", b'[[],null,"",[]]'):
        (entry,) = reports()
        Store(Path(CACHE)).put(REPORTS, entry.name, damage)  # with a sound checksum
        assert run("bound", "six.pt") == first
    assert len(audits) == 4


def test_where_results_are_kept_can_be_said_in_three_ways(
    audits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'max-norm = 9\ncache = "of-config"\n[[models]]\npath = "six.pt"\n'
    Path("lipaudit.toml").write_text(text, encoding="utf-8")
    monkeypatch.delenv("LIPAUDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("own").resolve()))
    run("check")
    assert Path("of-config", REPORTS).is_dir()
    monkeypatch.setenv("LIPAUDIT_CACHE", "of-variable")
    run("check")
    assert Path("of-variable", REPORTS).is_dir()
    run("check", "--cache", "of-option")
    assert Path("of-option", REPORTS).is_dir()
    assert not Path("own").exists()
    monkeypatch.delenv("LIPAUDIT_CACHE")
    run("inspect", "half.pt")
    assert Path("own", "lipaudit", REPORTS).is_dir()
    assert len(audits) == 4


@pytest.mark.parametrize("off", ["cache = false", 'cache = "off"'])
def test_a_config_can_forbid_it(
    audits: list[str], monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    Path("lipaudit.toml").write_text(f'max-norm = 9\n{off}\n[[models]]\npath = "six.pt"\n')
    monkeypatch.delenv("LIPAUDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("own").resolve()))
    twice("check")
    assert len(audits) == 2
    assert not Path("own").exists()


@pytest.mark.parametrize("wrong", ["cache = 3", "cache = true", 'cache = ""'])
def test_a_config_that_says_nonsense(wrong: str) -> None:
    Path("lipaudit.toml").write_text(f'max-norm = 9\n{wrong}\n[[models]]\npath = "six.pt"\n')
    done = run("check")
    assert done.code == 2
    assert "cache must be" in done.complaints


def test_a_folder_that_cannot_be_is_one_line() -> None:
    Path("file").write_bytes(b"")
    first, second = twice("bound", "six.pt", "half.pt", "--cache", "file")
    assert first.code == second.code == 0
    assert first.complaints.count("the cache cannot be written") == 1
    assert first.complaints.count("\n") == 1
    assert first.out == run("bound", "six.pt", "half.pt", "--no-cache").out


def lipaudit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys; from lipaudit.__main__ import _run; "
        f"sys.argv = ['lipaudit', *{arguments!r}]; code = _run(); "
        'sys.stderr.write(f\'torch {"torch" in sys.modules}, numpy {"numpy" in sys.modules}\'); '
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": offline.PATH, "OMP_NUM_THREADS": "1", **environment},
    )


def test_a_second_run_imports_no_torch() -> None:
    for option, code in (("--max", 0), ("--max-norm", 0)):
        first = lipaudit("check", "six.pt", option, "7", LIPAUDIT_CACHE=CACHE)
        second = lipaudit("check", "six.pt", option, "7", LIPAUDIT_CACHE=CACHE)
        assert first.stdout == second.stdout
        assert (first.returncode, second.returncode) == (code, code)
        assert first.stderr == "torch True, numpy True"
        assert second.stderr == "torch False, numpy False"


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "/nowhere"}])
def test_nobody_needs_a_home(environment: dict[str, str]) -> None:
    done = lipaudit("inspect", "half.pt", **environment)
    assert done.returncode == 0
    assert done.stderr == "torch True, numpy True"


def test_show_and_clear() -> None:
    run("inspect", "six.pt")
    folder = Path(CACHE).resolve()
    count, size = Store(folder).size()
    assert count >= 1
    assert size >= 4096 * count
    assert run("cache").out.startswith(f"{folder}: {count} entries")
    found = json.loads(run("doctor", "--json").out)["cache"]
    limit = 256 << 20
    assert found == {"folder": str(folder), "entries": count, "bytes": size, "limit": limit}
    assert run("cache", "clear").out.startswith(f"{folder}: 0 entries")
    assert reports() == []
    assert run("cache", "--cache", "off").out == "none\n"
    assert run("cache", "eat").code == 2


SHARED = [
    "burn_onnx/external_data.onnx",
    "lyapunov_ctrl/observer_[8,8].pth",
    "burn_onnx/lstm.onnx",
    "captum/titanic_model.pt",
]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("command", ["inspect", "bound"])
def test_models_of_other_people(audits: list[str], name: str, command: str) -> None:
    path = str(shared_models.path(name))
    plain = run(command, path, "-f", "json", "--no-cache")
    first, second = twice(command, path, "-f", "json")
    assert plain == first == second
    assert len(audits) == 2


def test_a_model_beside_others_is_kept_alone(audits: list[str]) -> None:
    save(Path("new.pt"), diagonal(1.0, 2.0))
    old("new.pt")
    run("inspect", "six.pt")
    run("inspect", "six.pt", "new.pt")
    assert audits == ["six.pt", "new.pt"]
