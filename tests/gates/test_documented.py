"""docs/config.md: every key and variable that there is, and its example works."""

import re
from pathlib import Path

import typer

from lipaudit.cli import app
from lipaudit.gates import config_file
from lipaudit.gates.toml_table import TomlTable

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "config.md").read_text(encoding="utf-8")


def test_every_key_is_described() -> None:
    table = TomlTable({}, "x")
    config_file._settings(table)
    settings = table._known
    assert len(settings) > 10
    described = set(re.findall(r"`([a-z-]+)`", TEXT))
    assert (
        settings | {"models", "ignore", "baseline", "device", "max-memory", "cache", "path"}
        <= described
    )


def test_every_variable_is_described() -> None:
    command = typer.main.get_command(app).commands["check"]  # type: ignore[attr-defined]
    variables = {str(p.envvar) for p in command.params if p.envvar}
    assert variables == set(re.findall(r"`(LIPAUDIT_[A-Z_]+)`", TEXT))


def test_the_example_is_a_config(tmp_path: Path) -> None:
    example = TEXT.split("```toml\n")[1].split("```")[0]
    (tmp_path / "lipaudit.toml").write_text(example, encoding="utf-8")
    config = config_file.load(str(tmp_path / "lipaudit.toml"))
    assert config is not None
    assert [entry.settings.max_bound for entry in config.models] == [100.0, 1.0]
