"""A short run of the fuzzer; `make fuzz SECONDS=3600` is a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

SECONDS = 40


@pytest.mark.parametrize("environment", [{}, {"FUZZ_WITHOUT_ATHERIS": "1"}], ids=["guided", "mutations"])
def test_no_crash_no_hang_nothing_of_others(tmp_path: Path, environment: dict[str, str]) -> None:
    seconds = SECONDS if not environment else SECONDS // 4
    argv = [sys.executable, "-m", "tests.security.fuzz", "--seconds", str(seconds), "--folder", str(tmp_path)]
    # The guided one ends its process without a word to Python, so what it made stays where it was made.
    made_here = {"TMPDIR": str(tmp_path)}
    run = subprocess.run(
        argv,
        env=os.environ | environment | made_here,
        capture_output=True,
        text=True,
        timeout=seconds + HANG_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
