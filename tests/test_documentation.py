"""The documentation does what it says: its commands and programs are run as they stand.

A section that begins with `## ` is one empty folder. A block with a file name behind its language
is written there; a block of `sh` or `python` is run, and ends with exit 0 unless `exit=N` stands
behind the language. `console` blocks need a network.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lipaudit.cli import COMMANDS
from tests import offline

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\S+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
RUN = {
    ROOT / "README.md": ["Gate your CI in five minutes"],
    ROOT / "docs" / "recipes.md": [
        "A critic that is 1-Lipschitz",
        "The gain of a recurrent network",
        "A stable time step for a learned vector field",
        "A gate for releases",
    ],
}


@dataclass(frozen=True)
class Block:
    language: str
    about: str
    text: str


def sections(path: Path) -> dict[str, list[Block]]:
    parts = SECTION.split(path.read_text(encoding="utf-8"))
    return {
        title: [Block(*found) for found in BLOCK.findall(text)]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Make `lipaudit` and `python` mean this lipaudit and this Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("lipaudit", "-m lipaudit"), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("path", "title"), [(path, title) for path, titles in RUN.items() for title in titles]
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_section_runs_as_it_stands(
    path: Path, title: str, programs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith("LIPAUDIT_")}
    env |= {"PATH": f"{programs}{os.pathsep}{env['PATH']}", "PYTHONPATH": offline.PATH}
    env["LIPAUDIT_CACHE"] = "off"
    count = 0
    for block in sections(path)[title]:
        if block.about and not block.about.startswith("exit="):
            (folder / block.about).write_text(block.text, encoding="utf-8")
            continue
        command = {
            "sh": ["bash", "-eu", "-o", "pipefail", "-c", block.text],
            "python": [sys.executable, "-c", block.text],
        }.get(block.language)
        if command is None:
            continue
        wanted = int(block.about.removeprefix("exit=") or 0)
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == wanted, block.text + done.stdout + done.stderr
        count += 1
    assert count >= 1


def test_every_section_of_recipes_is_run() -> None:
    recipes = ROOT / "docs" / "recipes.md"
    assert list(sections(recipes)) == RUN[recipes]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_and_options_that_are_named_exist(path: Path) -> None:
    """A `lipaudit ... --option` in running text names what there is."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    names = {module.__name__.rpartition(".")[2] for module in COMMANDS}
    known = "".join(
        (ROOT / "lipaudit" / "cli" / f"{name}.py").read_text(encoding="utf-8")
        for name in (*names, "options", "app")
    )
    for quoted in re.findall(r"`lipaudit ([^`\n]+)`", text):
        words = quoted.split()
        assert words[0] in names or words[0].startswith("-"), quoted
        for word in words:
            if word.startswith("--") and word not in {"--install-completion", "--help"}:
                option = word.split("=")[0]
                assert f'"{option}"' in known or f"{option[2:].replace('-', '_')}:" in known, quoted


def test_the_workflows_in_the_docs_are_yaml_that_fits() -> None:
    blocks = [b for one in sections(ROOT / "docs" / "ci.md").values() for b in one]
    documents = [yaml.safe_load(b.text) for b in blocks if b.language == "yaml"]
    inputs = set(yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"])
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    workflow, remote, local = documents
    (own,) = [
        step
        for step in workflow["jobs"]["lipaudit"]["steps"]
        if step["uses"].startswith("OWNER/lipaudit@")
    ]
    assert set(own["with"]) <= inputs
    assert remote["repos"][0]["hooks"] == [{"id": hook["id"]}]
    (copy,) = local["repos"][0]["hooks"]
    assert {key: copy[key] for key in ("id", "entry", "pass_filenames")} == {
        key: hook[key] for key in ("id", "entry", "pass_filenames")
    }
