"""A short run of the fuzzer. `make fuzz SECONDS=3600` runs it longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

SECONDS = 40


@pytest.mark.parametrize("environment", [{}, {"FUZZ_WITHOUT_ATHERIS": "1"}], ids=["guided", "mutations"])
def test_fuzzer_finds_no_fault(tmp_path: Path, environment: dict[str, str]) -> None:
    seconds = SECONDS if not environment else SECONDS // 4
    argv = [sys.executable, "-m", "tests.security.fuzz", "--seconds", str(seconds), "--folder", str(tmp_path)]
    # atheris ends its process without Python's cleanup, so that its temporary files must be in tmp_path.
    temporary = {"TMPDIR": str(tmp_path)}
    run = subprocess.run(
        argv,
        env=os.environ | environment | temporary,
        capture_output=True,
        text=True,
        timeout=seconds + HANG_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
