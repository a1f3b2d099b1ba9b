"""The script that counts the files that a request passes through. Types do not cover it, and it uses fakes of unit tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_journeys_of_both_modes_are_measured() -> None:
    script = ROOT / "scripts" / "measure-journeys"
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "| direct: first GET of meta_data.json |" in ran.stdout
    assert "| haproxy: first GET of meta_data.json |" in ran.stdout
