"""The metadata agent as a process, with a fake control API and a fake metadata API that tests control."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.builders import port_document
from tests.waiting import HANG_SECONDS, until

from openimds.client.testing import PASSWORD, FakeControl
from openimds.guest_identity.signature import verify

NET = "2ca23c47-9d00-4b9c-9246-aed05c19fe49"


def port(port_id: str, instance: str, ip: str = "10.0.0.5") -> dict[str, object]:
    return port_document(port_id, ip, network_id=NET, project_id=f"tenant-of-{instance}", device_id=instance)


class MetadataApi(ThreadingHTTPServer):
    daemon_threads = True
    secret = "shared"
    gone: set[str] = set()  # noqa: RUF012 - replaced, never changed
    """The instances that the fake API has deleted."""


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MetadataApi

    def do_GET(self) -> None:
        instance = self.headers["X-Instance-ID"]
        is_valid = verify([self.server.secret], instance, self.headers["X-Instance-ID-Signature"])
        exists = instance.startswith("vm") and instance not in self.server.gone
        status = 403 if not is_valid else 200 if exists else 404
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
    """A state folder, a fake control API, a fake metadata API and the process of the metadata agent."""

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
        return self.process.wait(HANG_SECONDS)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, words: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if words in str(line["event"])]

    def ask(self, ip: str = "10.0.0.5") -> tuple[int, str]:
        head, body = self.response(ip)
        return int(head.split()[1]), body

    def response(self, ip: str = "10.0.0.5") -> tuple[str, str]:
        """The status line with the headers, and the body."""
        request = (
            f"GET /latest/meta-data/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Neutron-Network-ID: {NET}\r\n"
            f"X-Forwarded-For: {ip}\r\nX-Openstack-Request-Id: req-{ip}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_SECONDS)
            client.connect(str(self.socket))
            client.sendall(request.encode())
            response = b"".join(iter(lambda: client.recv(65536), b""))
        head, _, body = response.partition(b"\r\n\r\n")
        return head.decode(), body.decode()


class closing_server:  # noqa: N801 - a context manager
    def __init__(self, server: MetadataApi) -> None:
        self.server = server

    def __enter__(self) -> MetadataApi:
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self.server

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def agent_stage(folder: Path) -> Iterator[Stage]:
    """Yields a configured stage before the start of its agent, and kills the agent after the test."""
    with FakeControl() as control, closing_server(MetadataApi(("127.0.0.1", 0), _Api)) as api:
        control.put("port", port("p1", "vm-1"))
        stage = Stage(folder, control, api)
        stage.configure()
        try:
            yield stage
        finally:
            if stage.process is not None and stage.process.poll() is None:
                stage.process.kill()
                stage.process.wait()
