"""The wheel: what `pip install lipaudit` puts on a machine."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lipaudit
from lipaudit.report.json import SCHEMAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "lipaudit").rglob("*"):
        if path.suffix in {".py", ".typed", ".json"}:
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    return zipfile.ZipFile(next(folder.glob("lipaudit-*.whl")))


def test_every_module_is_inside(wheel: zipfile.ZipFile) -> None:
    expected = {str(p.relative_to(ROOT)) for p in (ROOT / "lipaudit").rglob("*.py")}
    inside = {name for name in wheel.namelist() if name.endswith(".py")}
    assert inside == expected
    schemas = {f"lipaudit/report/{file}" for file in SCHEMAS.values()}
    assert {"lipaudit/py.typed", *schemas} <= set(wheel.namelist())


def test_the_command_is_announced(wheel: zipfile.ZipFile) -> None:
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "lipaudit = lipaudit.__main__:main" in wheel.read(entry).decode()


def test_the_core_is_six_packages() -> None:
    names = {requirement.split(">=")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "typer", "rich", "safetensors", "onnx"}


def test_one_version_everywhere() -> None:
    assert PROJECT["version"] == lipaudit.__version__
    assert f"**{lipaudit.__version__}**" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_public_names_exist_and_are_sorted() -> None:
    assert sorted(lipaudit.__all__) == lipaudit.__all__
    for name in lipaudit.__all__:
        assert getattr(lipaudit, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = lipaudit.nothing_of_this_name
