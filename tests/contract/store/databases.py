"""The databases of the store's tests: SQLite, and a PostgreSQL cluster that the tests start."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import HANG_SECONDS

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


def postgresql_missing() -> str | None:
    """The reason why PostgreSQL cannot be started. None if it can."""
    if not BINARIES:
        return "the Debian package postgresql is not installed"
    try:
        import psycopg  # noqa: F401, PLC0415
    except ImportError:
        return "the extra openimds[postgresql] (psycopg) is not installed"
    return None


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Starts a cluster in `folder` that listens on a Unix socket only. Returns its URL. PostgreSQL does not run as root."""
    data, log = folder / "data", folder / "log"
    user = _server_user()
    if user:
        shutil.chown(folder, user)
    _as(user, ["initdb", "-D", str(data), "-U", "openimds", "-A", "trust", "--no-sync", "-E", "UTF8"])
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=120"
    _as(user, ["pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start"])
    try:
        yield f"postgresql+psycopg://openimds@/postgres?host={folder}"
    finally:
        _as(user, ["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"])


def _server_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as(user: str | None, command: list[str]) -> None:
    program = str(BINARIES[-1] / command[0])
    prefix = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"] if user else []
    done = subprocess.run(
        [*prefix, program, *command[1:]], cwd="/", capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
