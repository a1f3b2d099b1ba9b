"""A guest that sends raw bytes from a socket in its namespace. h11 parses the responses."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import h11
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS

from openimds.linux.netns.netns import run_in

HOST = "169.254.169.254"
HOSTNAME = b"/latest/meta-data/hostname"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Guest:
    """A server with its canary as user data."""

    cloud: Cloud
    api: ApiClient
    name: str
    id: str

    @property
    def canary(self) -> bytes:
        return user_data(self.name)

    def connect(self, port: int = 0, source: str = "") -> socket.socket:
        """Connects to the metadata service from this guest's namespace, source port and source address."""

        def connected() -> socket.socket:
            return socket.create_connection((HOST, 80), HANG_SECONDS, (source, port) if port or source else None)

        return run_in(f"{self.cloud.prefix}qvm-{self.id}", connected)

    def send(self, *pieces: bytes, port: int = 0, source: str = "") -> bytes:
        """Sends the pieces. Returns all bytes that the service sends until it closes the connection."""
        with self.connect(port, source) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except OSError:
                pass  # closed before all was sent; the response can still be read
            return received(connection)

    def ask(self, path: bytes = HOSTNAME, *headers: bytes, method: bytes = b"GET", port: int = 0) -> Answer:
        (answer,) = parsed(self.send(request(path, *headers, method=method), port=port), 1)
        return answer

    def set(self, **properties: str) -> None:
        self.api.set_properties(self.id, **{f"imds:{name}": value for name, value in properties.items()})

    def unset(self, name: str) -> None:
        self.api.unset_property(self.id, f"imds:{name}")


def user_data(name: str) -> bytes:
    return f"#!/bin/sh\necho canary of {name}\n".encode()


def request(path: bytes, *headers: bytes, method: bytes = b"GET", last: bool = True) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: 169.254.169.254", *headers]
    return b"\r\n".join([*lines, b"Connection: " + (b"close" if last else b"keep-alive"), b"", b""])


def received(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def parsed(raw: bytes, count: int) -> list[Answer]:
    """Parses `count` responses with h11. No byte may follow them."""
    found: list[Answer] = []
    for _ in range(count):
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(raw)
        head = parser.next_event()
        assert isinstance(head, h11.Response), raw
        body = b""
        while isinstance(event := parser.next_event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), raw
        found.append(Answer(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body))
        raw = parser.trailing_data[0]
    assert raw == b""
    return found
