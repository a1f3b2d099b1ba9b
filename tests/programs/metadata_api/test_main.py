"""The process `openimds metadata-api`: start, requests, workers, reload and stop."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.databases import migrated_store
from tests.ports import free_port
from tests.waiting import HANG_SECONDS, until

from openimds.guest_identity.signature import sign
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore

ID = "11111111-2222-4333-8444-555555555501"
SECRET = "s3cret"


class Program:
    """`openimds metadata-api` with this configuration."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.port, self.metrics_port = free_port(), free_port()
        self.log = folder / "log"
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, secret: str = SECRET, api: str = "", default: str = "", neutron: str = "") -> Path:
        file = self.folder / "nova.conf"
        file.write_text(
            f"""[DEFAULT]
metadata_listen = 127.0.0.1
metadata_listen_port = {self.port}
state_path = {self.folder}/state
{default}
[neutron]
service_metadata_proxy = true
metadata_proxy_shared_secret = {secret}
{neutron}
[api]
{api}
[metrics]
listen = 127.0.0.1
port = {self.metrics_port}
"""
        )
        return file

    def start(self, **options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "openimds", "metadata-api", "--config-file", str(self.configure(**options))]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self._process

    def wait_ready(self) -> None:
        until(self._is_ready, self.log.read_text)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return " ready " in self.log.read_text()

    def fail(self, **options: str) -> str:
        """Runs the program, which fails to start, and returns its stderr."""
        process = self.start(**options)
        assert process.wait(HANG_SECONDS) != 0
        return self.log.read_text()

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(HANG_SECONDS)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def get(self, path: str, secret: str = SECRET, project: str = "p1") -> tuple[int, bytes]:
        headers = {"X-Instance-ID": ID, "X-Tenant-ID": project, "X-Instance-ID-Signature": sign(secret, ID)}
        return self._get(self.port, path, headers)

    def status(self, path: str) -> tuple[int, bytes]:
        return self._get(self.metrics_port, path, {})

    def _get(self, port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)) as connection:
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read()

    def begin_post(self) -> socket.socket:
        """Returns a connection with an incomplete request. The last five bytes are not sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), HANG_SECONDS)
        connection.sendall(b"POST /openstack/latest/password HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst")
        return connection

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ended(self) -> int:
        assert self._process is not None
        return self._process.wait(HANG_SECONDS)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "state").mkdir()
    store = migrated_store(tmp_path / "state")
    InstanceStore(store).import_instances({"instances": [{"uuid": ID, "project_id": "p1", "hostname": "vm"}]})
    store.close()
    program = Program(tmp_path)
    yield program
    program.kill()


def test_program_starts_serves_and_stops(program: Program) -> None:
    program.start(api="vendordata_jsonfile_path = " + str(_json_file(program.folder, {"cloud": "x"})))
    program.wait_ready()
    assert program.get("/latest/meta-data/hostname") == (200, b"vm.novalocal")
    assert json.loads(program.get("/openstack/latest/vendor_data2.json")[1]) == {"static": {"cloud": "x"}}
    assert program.status("/healthcheck") == (200, b"OK\n")
    assert b'openimds_metadata_requests_total{status="200"} 2.0' in program.status("/metrics")[1]
    assert program.get("/metrics")[0] == 404
    assert program.stop() == 0
    assert SECRET not in program.log.read_text()


def test_change_by_another_process_is_served(program: Program) -> None:
    program.start()
    program.wait_ready()
    store = Store(f"sqlite:///{program.folder}/state/openimds.sqlite")
    for number in range(3):
        entry = {"uuid": ID, "project_id": "p1", "hostname": f"vm{number}"}
        InstanceStore(store).import_instances({"instances": [entry]})
        response = (200, f"vm{number}.novalocal".encode())
        until(lambda response=response: program.get("/latest/meta-data/hostname") == response)  # type: ignore[misc]
    store.close()


def test_instance_imported_into_another_project_is_served_only_there(program: Program) -> None:
    """After the first response to the new project, the old project gets no response."""
    program.start()
    program.wait_ready()
    store = Store(f"sqlite:///{program.folder}/state/openimds.sqlite")
    owner, document = "p1", "/openstack/latest/meta_data.json"
    assert json.loads(program.get(document)[1])["project_id"] == owner
    for project in ("p2", "p3", "p1"):
        entry = {"uuid": ID, "project_id": project, "hostname": f"of-{project}"}
        InstanceStore(store).import_instances({"instances": [entry]})
        until(lambda new=project: program.get(document, project=new)[0] == 200)  # type: ignore[misc]
        served = json.loads(program.get(document, project=project)[1])
        assert (served["project_id"], served["hostname"]) == (project, f"of-{project}.novalocal")
        assert program.get(document, project=owner)[0] == 404
        owner = project
    store.close()


def test_new_secret_is_applied_by_sighup(program: Program) -> None:
    process = program.start()
    program.wait_ready()
    program.configure(secret="new", neutron=f"metadata_proxy_shared_secret_previous = {SECRET}")
    process.send_signal(signal.SIGHUP)
    until(lambda: program.get("/latest", secret="new")[0] == 200)
    assert program.get("/latest")[0] == 200
    (program.folder / "nova.conf").write_text("[DEFAULT]\nmetadata_workers = many\n")
    process.send_signal(signal.SIGHUP)
    until(lambda: "configuration reload failed" in program.log.read_text())
    assert program.get("/latest")[0] == 200


def test_workers_share_the_port_and_are_restarted(program: Program) -> None:
    process = program.start(default="metadata_workers = 2")
    program.wait_ready()
    workers = _workers_of(process.pid)
    assert len(workers) == 2
    for _ in range(10):
        assert program.get("/latest/meta-data/hostname")[0] == 200
    # Workers publish tproject counters several times per second.
    until(lambda: b'openimds_metadata_requests_total{status="200"} 10.0' in program.status("/metrics")[1])
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(set(_workers_of(process.pid)) - {workers[0]}) == 2)
    assert program.get("/latest/meta-data/hostname")[0] == 200
    assert program.log.read_text().count("worker process died and restarts") == 1
    assert program.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"secret": ""}, "metadata_proxy_shared_secret is empty"),
        ({"api": "vendordata_jsonfile_path = /nonexistent"}, "/nonexistent cannot be read"),
        ({"api": "vendordata_providers = StaticJSON, YAML"}, "vendordata_providers"),
    ],
)
def test_invalid_options_are_a_startup_error(program: Program, options: dict[str, str], sentence: str) -> None:
    stderr = program.fail(**options)
    assert sentence in stderr
    assert "Traceback" not in stderr


def test_changed_vendor_data_file_is_served_by_every_worker(program: Program) -> None:
    file = _json_file(program.folder, {"cloud": "x"})
    program.start(api=f"vendordata_jsonfile_path = {file}", default="metadata_workers = 2")
    program.wait_ready()
    _json_file(program.folder, {"cloud": "y"})
    path = "/openstack/latest/vendor_data.json"
    # New connections each time, so that both workers get requests.
    until(lambda: all(json.loads(program.get(path)[1]) == {"cloud": "y"} for _ in range(20)))
    file.write_text("{")
    until(lambda: "vendor data file invalid" in program.log.read_text())
    assert json.loads(program.get(path)[1]) == {"cloud": "y"}
    assert program.stop() == 0


def test_vendor_data_file_without_an_object_is_a_startup_error(program: Program) -> None:
    text = program.fail(api=f"vendordata_jsonfile_path = {_json_file(program.folder, [1])}")
    assert "must hold a JSON object" in text


def test_empty_secret_is_accepted_if_the_option_permits_it(program: Program) -> None:
    program.start(secret="", neutron="allow_empty_shared_secret = true")
    program.wait_ready()
    assert program.get("/latest", secret="")[0] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_open_requests_finish_despite_a_second_sigterm(
    workers: int, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(program.folder / "notify"))
    manager.settimeout(HANG_SECONDS)
    monkeypatch.setenv("NOTIFY_SOCKET", str(program.folder / "notify"))
    program.start(default=f"metadata_workers = {workers}")
    program.wait_ready()
    with program.begin_post() as connection:
        assert program.get("/")[0] == 200
        program.signal(signal.SIGTERM)
        while manager.recv(4096) != b"STOPPING=1":
            pass
        program.signal(signal.SIGTERM)
        connection.sendall(b"later")
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 4"), "an unsigned request is rejected"
    if workers == 1:  # with several workers the parent sends STOPPING=1 first, and this response may be earlier
        assert b"connection: close" in response.lower()
    assert program.ended() == 0
    manager.close()


def test_taken_port_is_a_startup_error(program: Program) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", program.port))
        taken.listen()
        assert f"port {program.port} on 127.0.0.1 is taken" in program.fail()


def _json_file(folder: Path, content: object) -> Path:
    file = folder / "vendor.json"
    file.write_text(json.dumps(content))
    return file


def _workers_of(pid: int) -> list[int]:
    """The worker processes, without the resource tracker of multiprocessing."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
