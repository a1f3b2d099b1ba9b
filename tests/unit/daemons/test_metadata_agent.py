"""The program as it is started: its socket, its log, its signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from openimds.client.fake import PASSWORD, FakeControl
from openimds.identity.signature import verify

NET = "2ca23c47-9d00-4b9c-9246-aed05c19fe49"


def port(port_id: str, instance: str, ip: str = "10.0.0.5") -> dict[str, object]:
    return {
        "id": port_id,
        "network_id": NET,
        "project_id": f"tenant-of-{instance}",
        "mac_address": "fa:16:3e:00:00:05",
        "fixed_ips": [{"subnet_id": "s", "ip_address": ip}],
        "device_id": instance,
        "device_owner": "compute:nova",
    }


class MetadataApi(ThreadingHTTPServer):
    daemon_threads = True
    secret = "shared"


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MetadataApi

    def do_GET(self) -> None:
        instance = self.headers["X-Instance-ID"]
        good = verify([self.server.secret], instance, self.headers["X-Instance-ID-Signature"])
        known = instance.startswith("vm")
        status = 403 if not good else 200 if known else 404
        body = (
            f"{instance} {self.headers['X-Tenant-ID']}".encode()
            if status == 200
            else b"Invalid proxy request signature."
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@dataclass
class Stage:
    """A state folder, a control API, a metadata API and the agent's process between them."""

    folder: Path
    control: FakeControl
    api: MetadataApi
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "metadata_proxy"

    @property
    def file(self) -> Path:
        return self.folder / "metadata_agent.ini"

    def configure(self, secret: str = "shared", *lines: str) -> None:
        self.file.write_text(
            "\n".join(
                [
                    "[DEFAULT]",
                    f"state_path = {self.folder}",
                    "host = node1",
                    "log_format = json",
                    "nova_metadata_host = 127.0.0.1",
                    f"nova_metadata_port = {self.api.server_address[1]}",
                    f"metadata_proxy_shared_secret = {secret}",
                    *lines,
                    "[agent]",
                    "report_interval = 0.2",
                    "[keystone_authtoken]",
                    f"auth_url = {self.control.url}/v3",
                    "username = agent",
                    f"password = {PASSWORD}",
                    "project_name = service",
                    "",
                ]
            )
        )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "openimds", "metadata-agent", "--config-file", str(self.file)]

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, stdout=log)
        until(lambda: '"event": "ready"' in self.log, lambda: self.log)

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(20)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, words: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if words in str(line["event"])]

    def ask(self, ip: str = "10.0.0.5") -> tuple[int, str]:
        request = (
            f"GET /latest/meta-data/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Neutron-Network-ID: {NET}\r\n"
            f"X-Forwarded-For: {ip}\r\nX-Openstack-Request-Id: req-{ip}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.socket))
            client.sendall(request.encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


def until(condition: Callable[[], object], explain: Callable[[], str] = lambda: "", seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not become true in time {explain()}"
        time.sleep(0.02)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with FakeControl() as control, closing_server(MetadataApi(("127.0.0.1", 0), _Api)) as api:
        control.put("port", port("p1", "vm-1"))
        made = Stage(tmp_path, control, api)
        made.configure()
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.process.kill()
                made.process.wait()


class closing_server:  # noqa: N801 - reads as a block's name
    def __init__(self, server: MetadataApi) -> None:
        self.server = server

    def __enter__(self) -> MetadataApi:
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self.server

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_guest_is_answered_and_a_moved_address_is_the_new_owners(stage: Stage):
    stage.start()
    assert stage.ask() == (200, "vm-1 tenant-of-vm-1")
    stage.control.delete("port", "p1")
    stage.control.put("port", port("p2", "vm-2"))
    until(lambda: stage.ask() == (200, "vm-2 tenant-of-vm-2"))
    assert stage.ask("10.0.0.6")[0] == 404
    line = stage.events("request answered")[0]
    assert (line["request_id"], line["instance_id"], line["network_id"]) == ("req-10.0.0.5", "vm-1", NET)
    assert stage.events("takes our signature")
    until(lambda: stage.control.calls)
    beat = stage.control.calls[0]
    assert beat.path == "/agents/openimds-metadata-agent/node1"
    assert json.loads(beat.body)["agent_type"] == "Metadata agent"
    assert stat.S_IMODE(stage.socket.stat().st_mode) == 0o644
    assert stage.stop() == 0
    assert "shared" not in stage.log.replace("shared_secret", "").replace("shared secret", "")
    assert PASSWORD not in stage.log


def test_it_goes_on_while_the_control_api_is_away_and_starts_without_it(stage: Stage):
    stage.start()
    stage.control.fail_with(503)
    assert stage.ask() == (200, "vm-1 tenant-of-vm-1")
    assert stage.ask("10.0.0.6")[0] == 503
    stage.control.fail_with(None)
    until(lambda: stage.ask("10.0.0.6")[0] == 404)
    assert len(stage.events("the control API is lost")) <= 1


def test_the_namespace_proxies_log_is_in_its_log(stage: Stage):
    stage.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as haproxy:
        haproxy.sendto(
            b'{"request_id": "req-7", "status": 200, "source": "10.0.0.5"}', str(stage.folder / "haproxy_log")
        )
    until(lambda: stage.events("namespace proxy: request"))
    assert stage.events("namespace proxy: request")[0]["request_id"] == "req-7"


def test_two_different_secrets_are_said_at_the_start_and_mended_by_sighup(stage: Stage):
    """The seeds' files: SECRET_KEY in one, SECRETE_KEY in the other."""
    stage.api.secret = "SECRET_KEY"
    stage.configure("SECRETE_KEY")
    stage.start()
    until(lambda: stage.events("refused our signature"))
    assert stage.ask()[0] == 403
    stage.configure("SECRET_KEY")
    assert stage.process
    stage.process.send_signal(signal.SIGHUP)
    until(lambda: stage.events("was read again"))
    assert stage.ask()[0] == 200
    assert "SECRETE_KEY" not in stage.log


def test_a_second_one_is_told_who_is_there(stage: Stage):
    stage.start()
    second = subprocess.run(stage.command(), capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode != 0
    assert f"another process listens on {stage.socket}" in second.stderr
    assert stage.ask()[0] == 200


def test_killed_and_started_again_it_takes_its_socket_back(stage: Stage):
    stage.start()
    assert stage.process
    stage.process.kill()
    stage.process.wait()
    (stage.folder / "log").write_text("")
    stage.start()
    assert stage.ask()[0] == 200
    assert stage.stop() == 0


def test_several_workers_share_the_socket_and_a_dead_one_is_replaced(stage: Stage):
    stage.configure("shared", "metadata_workers = 2")
    stage.start()
    assert stage.process
    until(lambda: len(children(stage.process.pid)) == 2)  # type: ignore[union-attr]
    assert {stage.ask()[0] for _ in range(10)} == {200}
    before = children(stage.process.pid)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(children(stage.process.pid) - before) == 1)  # type: ignore[union-attr]
    until(lambda: stage.ask()[0] == 200)
    assert stage.events("is started again")
    assert stage.stop() == 0


def test_an_unknown_user_is_a_sentence(stage: Stage):
    stage.configure("shared", "metadata_proxy_user = nobody-of-this-name")
    failed = subprocess.run(stage.command(), capture_output=True, text=True, timeout=30, check=False)
    assert failed.returncode != 0
    assert "metadata_proxy_user: there is no user 'nobody-of-this-name'" in failed.stderr


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
