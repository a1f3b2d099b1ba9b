"""The process `openimds control-api`: start, requests, stop, and the errors of a failed start."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.fernet import Fernet
from tests.databases import migrated_store
from tests.ports import free_port
from tests.waiting import HANG_SECONDS, until

from openimds.store.bootstrap import bootstrap
from openimds.store.engine import utc_now

POLL_SECONDS = 60
OPENIMDS = str(Path(sys.executable).with_name("openimds"))


class Program:
    """`openimds control-api` with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = folder / "state"
        self.log = folder / "log"
        self._file = folder / "nova.conf"
        self._file.write_text(f"[DEFAULT]\nstate_path = {self.state}\n[control_api]\nport = {self.port}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def configure_database(self, connection: str) -> None:
        with self._file.open("a") as file:
            file.write(f"[database]\nconnection = {connection}\n")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([OPENIMDS, "control-api", "--config-file", str(self._file)], stderr=log)
        until(self.healthy, self.log.read_text)

    def end(self, number: int = signal.SIGTERM, within_seconds: float = HANG_SECONDS) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(within_seconds)

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthcheck", timeout=HANG_SECONDS).ok
        except requests.ConnectionError:
            return False

    def startup_error(self) -> str:
        """Runs the program, which fails to start, and returns its stderr."""
        done = subprocess.run(
            [OPENIMDS, "control-api", "--config-file", str(self._file)],
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def token(self) -> str:
        user = {"name": "admin", "domain": {"name": "Default"}, "password": "pw"}
        scope = {"project": {"name": "admin", "domain": {"name": "Default"}}}
        body: dict[str, Any] = {
            "auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
        }
        return requests.post(f"{self.url}/v3/auth/tokens", json=body, timeout=HANG_SECONDS).headers["X-Subject-Token"]

    def status(self, token: str) -> int:
        return requests.get(
            f"{self.url}/v3/projects", headers={"X-Auth-Token": token}, timeout=HANG_SECONDS
        ).status_code


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    if program.process is not None and program.process.poll() is None:
        program.process.kill()
        program.process.wait()


def test_program_creates_its_files_serves_and_stops(program: Program) -> None:
    program.start()
    assert (program.state / "openimds.sqlite").is_file()
    assert (program.state / "etc" / "token_keys").stat().st_mode & 0o777 == 0o600
    assert program.end() == 0
    log = program.log.read_text()
    assert f"listens=127.0.0.1:{program.port}" in log
    assert "request answered" not in log, "health checks are not logged"


def test_tokens_survive_a_kill_and_a_key_rotation(program: Program) -> None:
    store = migrated_store(program.state)
    bootstrap(store, "pw", "svc", program.state / "images", utc_now())
    store.close()
    program.start()
    token = program.token()
    program.end(signal.SIGKILL)
    program.start()
    assert program.status(token) == 200
    keys = program.state / "etc" / "token_keys"
    _rotate(program, keys, Fernet.generate_key() + b"\n" + keys.read_bytes())
    assert program.status(token) == 200, "tokens of the old key are valid"
    _rotate(program, keys, Fernet.generate_key() + b"\n")
    assert program.status(token) == 401
    assert program.end() == 0
    assert token not in program.log.read_text()


def test_long_poll_does_not_delay_the_stop(program: Program) -> None:
    store = migrated_store(program.state)
    bootstrap(store, "pw", "svc", program.state / "images", utc_now())
    store.close()
    program.start()
    token = program.token()
    headers = {"X-Auth-Token": token}
    revision = requests.get(
        f"{program.url}/openimds/v1/snapshot?kinds=port", headers=headers, timeout=HANG_SECONDS
    ).json()["revision"]
    path = f"/openimds/v1/changes?kinds=port&after={revision}&timeout={POLL_SECONDS}"
    with socket.create_connection(("127.0.0.1", program.port), HANG_SECONDS) as waiting:
        waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {token}\r\n\r\n".encode())
        for _ in range(3):  # the long poll is open after these requests
            assert program.status(token) == 200
        assert program.end(within_seconds=POLL_SECONDS - 10) == 0, "the stop does not wait for the poll timeout"


def test_taken_port_is_a_startup_error(program: Program) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", program.port))
        other.listen()
        assert f"port {program.port} on 127.0.0.1 is taken" in program.startup_error()


def test_store_that_cannot_be_created_is_a_startup_error(program: Program) -> None:
    program.state.write_text("a file where the folder should be")
    assert str(program.state) in program.startup_error()


@pytest.mark.parametrize(
    ("connection", "sentence"),
    [
        ("sqlite:///{folder}/nova.sqlite", "has the tables of nova (instances, …), so no tables are created there"),
        (
            "mysql+pymysql://nova:secret@controller/nova",
            "the store mysql+pymysql://nova:***@controller/nova cannot be used",
        ),
    ],
)
def test_database_of_nova_is_a_startup_error(program: Program, tmp_path: Path, connection: str, sentence: str) -> None:
    """A nova.conf of nova names nova's own database. MySQL was a traceback."""
    with closing(sqlite3.connect(tmp_path / "nova.sqlite")) as database:
        database.execute("CREATE TABLE instances (id INTEGER)")
    before = (tmp_path / "nova.sqlite").read_bytes()
    program.configure_database(connection.format(folder=tmp_path))
    assert sentence in program.startup_error()
    assert (tmp_path / "nova.sqlite").read_bytes() == before


def test_invalid_token_keys_are_a_startup_error(program: Program) -> None:
    (program.state / "etc").mkdir(parents=True)
    (program.state / "etc" / "token_keys").write_text("not a key\n")
    assert "Fernet" in program.startup_error()
    (program.state / "etc" / "token_keys").write_text("")
    assert "Fernet" in program.startup_error()


def _rotate(program: Program, keys: Path, content: bytes) -> None:
    before = program.log.read_text().count("token keys reloaded")
    keys.write_bytes(content)
    assert program.process is not None
    program.process.send_signal(signal.SIGHUP)
    until(lambda: program.log.read_text().count("token keys reloaded") > before)
