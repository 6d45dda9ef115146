"""The house rules a machine can check: who may import whom, and what a file may look like."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lipaudit"

# Higher rooms may import lower ones, never the other way round, and never their neighbours in
# the same row.
ROOMS = [
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"api", "torch"},
    {"rewriting", "crews"},
    {"report", "gates", "formats", "analysis"},
    {"layers"},
    {"graph"},
    {"operators"},
    {"comparison", "archive"},
    {"results"},
    {"device", "strict_json"},
    {"enclosure", "cache"},
    {"errors", "globs", "version"},
]
LEVEL = {room: level for level, row in enumerate(ROOMS) for room in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(tree: ast.Module) -> list[str]:
    """Every imported module name, wherever in the file it is imported."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def imported_room(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "lipaudit":
        return None
    if len(parts) == 1 or parts[1] not in LEVEL:
        return "__init__"
    return parts[1]


def is_type_checking(tree: ast.Module) -> set[str]:
    """Names imported for the type checker only: the lazy package root needs them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            names |= set(imports(ast.Module(node.body, [])))
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imports(tree):
        there = imported_room(name)
        if there is None or there == here or name in is_type_checking(tree):
            continue
        assert LEVEL[here] < LEVEL[there], f"{here} must not import {name}"


def test_every_room_is_in_the_plan() -> None:
    assert {room(path) for path in FILES} <= set(LEVEL)


@pytest.mark.parametrize("name", ["torch", "onnx", "numpy"])
@pytest.mark.parametrize(
    "wing",
    [
        "report",
        "gates",
        "cache",
        "archive.py",
        "comparison.py",
        "results.py",
        "strict_json.py",
        "globs.py",
        "errors.py",
        "enclosure.py",
    ],
)
def test_what_only_reads_results_needs_no_torch(wing: str, name: str) -> None:
    wanted = [path for path in FILES if str(path.relative_to(PACKAGE)).startswith(wing)]
    assert wanted
    for path in wanted:
        modules = imports(ast.parse(path.read_text(encoding="utf-8")))
        assert not [module for module in modules if module.split(".")[0] == name], path


def test_only_the_device_file_says_cuda() -> None:
    users = [
        path.name
        for path in FILES
        if "cuda" in path.read_text(encoding="utf-8").lower() and path.parent.name != "cli"
    ]
    assert users == ["device.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_hold_one_idea(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 450, "past 450 lines a file holds more than one idea"
    assert path.name != "utils.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 70, f"{node.name} is too long"
