"""The folder of real models by other people, which lies beside the checkout when it is there."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "models"


def path(relative: str) -> Path:
    """Return the path of one of the models; skip the test when the folder is missing."""
    if not FOLDER.is_dir():
        pytest.skip(f"no models by other people beside the checkout ({FOLDER.name}/ is missing)")
    return FOLDER / relative


def every(*suffixes: str) -> list[str]:
    """Return the relative paths of all models with these suffixes, [] when there is no folder."""
    if not FOLDER.is_dir():
        return []
    return sorted(
        str(found.relative_to(FOLDER))
        for found in FOLDER.rglob("*")
        if found.is_file() and found.name.endswith(suffixes)
    )
