"""A stand-in for the metadata agent behind a real HAProxy. It responds `hello` and records its requests."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, Self

from tests.waiting import HANG_SECONDS

from openimds.linux.process.daemons import run


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header.lower() == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        stand_in: MetadataServer = self.server.stand_in  # type: ignore[attr-defined]
        if stand_in.hang_up_once:
            stand_in.hang_up_once = False
            self.close_connection = True
            return
        stand_in.requests.append(Asked(self.command, self.path, tuple(self.headers.items())))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def address_string(self) -> str:
        return "proxy"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 4096
    stand_in: MetadataServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@dataclass
class MetadataServer:
    path: Path
    log_path: Path
    requests: list[Asked] = field(default_factory=list)
    hang_up_once: bool = False
    """Closes the connection of the next request without a response, like an agent that dies in the middle of it."""

    def __enter__(self) -> Self:
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(self.log_path))
        self._log.settimeout(HANG_SECONDS)
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._log.close()

    def open(self) -> None:
        self._server = _Server(str(self.path), _Handler)
        self._server.stand_in = self
        self.path.chmod(0o666)
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if self._server.fileno() < 0:
            return
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def pause(self) -> None:
        """Stops accepting connections. The socket stays open."""
        self._server.shutdown()

    def is_waited_for(self) -> bool:
        """True if a connection is in the socket's accept queue."""
        lines = run(["ss", "--listening", "--unix", "--no-header", "src", str(self.path)]).splitlines()
        return any(int(line.split()[2]) > 0 for line in lines)

    def go_on(self) -> None:
        self._serve()

    def logged(self) -> dict[str, Any]:
        """The next line of HAProxy's log."""
        line: dict[str, Any] = json.loads(self._log.recv(65536))
        return line
