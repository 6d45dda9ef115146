"""The examples run, and write what they say."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests import offline

ROOT = Path(__file__).resolve().parents[1]


def test_digits_writes_its_table_and_its_curves(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), "--out", str(tmp_path)]
    options = ["--seeds", "1", "--epochs", "2", "--images", "200", "--rounds", "0"]
    environment = {**os.environ, "PYTHONPATH": offline.PATH}
    subprocess.run([*command, *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    for arm in ("no clipping", "clip_ to 1.0", "clip_ to 0.5", "spectral_norm"):
        assert f"| {arm} |" in page
    curves = ET.parse(tmp_path / "curves.svg").getroot()  # noqa: S314 - what was just written
    assert len(curves.findall(".//{*}path[@stroke-width='2']")) == 8
