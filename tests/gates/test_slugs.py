"""Slugs: every one that the package uses has an explanation, and none is explained in vain."""

import ast
import re
from pathlib import Path

import pytest

from lipaudit.gates.slugs import SLUGS
from lipaudit.layers.base import COMPUTED_PARAMETER

PACKAGE = Path(__file__).resolve().parents[2] / "lipaudit"
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# Where a slug stands among the positional arguments of what makes a message.
POSITIONS = {"Unbounded": 0, "Opaque": 0, "_unmeasured": 1, "Skipped": 2, "Unread": 2}
BY_FILE = {"onnx_graph.py": {"_malformed": 1}, "onnx_wire.py": {"_unsafe": 1}}


def used() -> dict[str, str]:
    """Return every slug in the package, with a file that uses it."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        positions = {**POSITIONS, **BY_FILE.get(path.name, {})}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values = [word.value for word in node.keywords if word.arg == "slug"]
            values += node.args[positions[name] :][:1] if name in positions else []
            for value in values:
                for constant in ast.walk(value):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        found[constant.value] = path.name
    return found


USED = used() | {COMPUTED_PARAMETER: "base.py", "unsupported": "base.py"}


def test_the_search_finds_them() -> None:
    wanted = {"needs-shape", "unknown-op", "zip-crc", "config-key", "onnx-node", "onnx-fields"}
    assert wanted <= set(USED)
    assert len(USED) > 100


@pytest.mark.parametrize("slug", sorted(USED))
def test_every_slug_is_explained(slug: str) -> None:
    assert SLUG.fullmatch(slug), USED[slug]
    assert len(SLUGS.get(slug, "")) > 20, f"{USED[slug]} uses {slug!r}: explain it in gates/slugs"


def test_no_explanation_is_left_over() -> None:
    assert set(SLUGS) <= set(USED)
