"""The `openstack` command in a forked process.

The client needs more than a second of CPU time to start, mostly for imports. A server process imports it once, and a child
of that process runs the client's `main` for each command with an environment and a folder of its own.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.waiting import HANG_SECONDS

_LOCK = threading.Lock()
"""The server runs one command at a time."""


def run_openstack(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `openstack` with these arguments. Returns its exit code, stdout and stderr."""
    with _LOCK:
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)}) + "\n")
        server.stdin.flush()
        done = json.loads(server.stdout.readline())
    return subprocess.CompletedProcess(["openstack", *argv], done["code"], done["stdout"], done["stderr"])


@cache
def _server() -> subprocess.Popen[str]:
    argv = [sys.executable, "-W", "ignore", "-m", "tests.openstack_client"]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_stop, process)
    return process


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(HANG_SECONDS)
    process.stdout.close()


def main() -> None:
    _import_commands()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


def _import_commands() -> None:
    points = importlib.metadata.entry_points()
    for group in points.groups:
        if group.startswith("openstack."):
            for point in points.select(group=group):
                point.load()


def _run(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            os._exit(_run_client(request, stdout, stderr))
        _pid, status = os.waitpid(child, 0)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return {"code": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}


def _run_client(request: dict[str, Any], stdout: IO[bytes], stderr: IO[bytes]) -> int:
    from openstackclient import shell  # noqa: PLC0415 - only the server process has it

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["openstack", *request["argv"]]
    try:
        code = int(shell.main(request["argv"]) or 0)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
