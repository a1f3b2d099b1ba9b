"""A killed test run leaves nothing on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import until

from openimds.linux.netns import netns

RUN = """
import subprocess, time
from openimds.netconfig.namespace_state import NamespaceState

def test_that_does_not_end(host):
    name = f"{host.prefix}qrouter-1"
    host.kernel.apply(NamespaceState(name=name))
    program = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "600"])
    print(name, program.pid, flush=True)
    while True:  # a signal that comes just before one long sleep would be handled only after it
        time.sleep(0.1)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_killed_test_run_is_cleaned_up(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "test_it.py").write_text(RUN)
    argv = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-p", "tests.kernel.conftest"]
    options = ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen([*argv, *options], cwd=root, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        name, pid = next(line.split() for line in run.stdout if "qrouter" in line)
        assert netns.exists(name)
        os.kill(run.pid, sent)
    until(lambda: not netns.exists(name), "the namespace is gone")
    until(lambda: not Path(f"/proc/{pid}").exists(), "what ran in it is gone")
