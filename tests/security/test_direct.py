"""Checklist rows 11, 14, 16 and 21 without an agent: guests connect to the metadata API and are identified by address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.compat.stage import Stage
from tests.security.instances import ALPHA, BETA, GUESTS, Guest, instances_document, request
from tests.security.responses import Answer, answers
from tests.security.server_thread import ServerThread
from tests.security.test_identity import FORGED
from tests.waiting import HANG_SECONDS

from openimds.http.server.limits import ConnectionLimits
from openimds.imds.authenticators import AddressAuthenticator
from openimds.imds.handler import MetadataHandler

HOSTNAME = "/latest/meta-data/hostname"
ALLOWED = ("169.254.169.254", "[fe80::a9fe:a9fe]", "metadata.example")


class Direct(Stage):
    """The metadata API with identification by address."""

    strict_hosts: tuple[str, ...] | None = None

    def service(self, config: str = "direct") -> MetadataHandler:
        service = super().service(config)
        service._authenticator = AddressAuthenticator(self.instances, self.records, self.strict_hosts)
        return service


@contextmanager
def direct(folder: Path, strict_hosts: tuple[str, ...] | None) -> Iterator[ServerThread]:
    stage = Direct(folder, instances_document())
    stage.strict_hosts = strict_hosts
    try:
        with ServerThread(stage.service, ConnectionLimits(per_peer=20)) as served:
            yield served
    finally:
        stage.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with direct(tmp_path_factory.mktemp("direct"), None) as served:
        yield served


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with direct(tmp_path_factory.mktemp("strict"), ALLOWED) as served:
        yield served


def ask(served: ServerThread, guest: Guest, data: bytes) -> list[Answer]:
    raw = b""
    with socket.create_connection(("127.0.0.1", served.port), HANG_SECONDS, (guest.address, 0)) as line:
        line.sendall(data)
        while more := line.recv(65536):
            raw += more
    for other in GUESTS:
        assert other is guest or not [secret for secret in other.secrets if secret in raw]
    return answers(raw, [])


def test_same_bytes_of_two_guests_get_different_responses(plain: ServerThread) -> None:
    """A cached response is served only to its own guest."""
    paths = (HOSTNAME, "/openstack/latest/meta_data.json", "/openstack/latest/user_data")
    data = b"".join(request("GET", path, {"Connection": "keep-alive"}) for path in paths)
    for guest in (ALPHA, BETA) * 10:
        got = ask(plain, guest, data + request("GET", HOSTNAME))
        assert all(guest.canary.encode() in answer.body for answer in got)
    lines = [socket.create_connection(("127.0.0.1", plain.port), HANG_SECONDS, (guest.address, 0)) for guest in GUESTS]
    for _ in range(20):
        for guest, line in zip(GUESTS, lines, strict=True):
            line.sendall(request("GET", HOSTNAME, {"Connection": "keep-alive"}))
            assert guest.canary.encode() in line.recv(65536)
    for line in lines:
        line.close()


def test_11_forged_headers_are_ignored_or_refused_when_strict(plain: ServerThread, strict: ServerThread) -> None:
    for name, value in FORGED.items():
        (answer,) = ask(plain, ALPHA, request("GET", HOSTNAME, {name: value}))
        assert answer.status == 200
        assert ALPHA.canary.encode() in answer.body
        (answer,) = ask(strict, ALPHA, request("GET", HOSTNAME, {name: value}))
        assert answer.status == 403, name


@pytest.mark.parametrize(
    ("host", "status"),
    [("169.254.169.254", 200), ("169.254.169.254:80", 200), ("[fe80::a9fe:a9fe]", 200), ("metadata.example", 200),
     ("rebound.example", 403), ("169.254.169.254.rebound.example", 403), ("", 403)],
)  # fmt: skip
def test_14_unknown_host_is_refused_when_strict(
    plain: ServerThread, strict: ServerThread, host: str, status: int
) -> None:
    (answer,) = ask(strict, ALPHA, request("GET", HOSTNAME, {"Host": host}))
    assert answer.status == status
    (answer,) = ask(plain, ALPHA, request("GET", HOSTNAME, {"Host": host}))
    assert answer.status == 200


def test_unknown_client_is_404(plain: ServerThread) -> None:
    unknown = Guest("unknown", "-", "-", "127.0.7.51", 9)
    (answer,) = ask(plain, unknown, request("GET", HOSTNAME, FORGED))
    assert answer.status == 404


def test_21_connections_of_one_guest_are_limited(plain: ServerThread) -> None:
    held = [socket.create_connection(("127.0.0.1", plain.port), HANG_SECONDS, (ALPHA.address, 0)) for _ in range(40)]
    try:
        refused = 0
        for line in held:
            line.sendall(request("GET", HOSTNAME, {"Connection": "keep-alive"}))
            refused += line.recv(4096).startswith(b"HTTP/1.1 503 ")
        assert refused == 20
        assert ask(plain, BETA, request("GET", HOSTNAME))[0].status == 200
    finally:
        for line in held:
            line.close()


def test_16_drain_finishes_the_request_in_flight(tmp_path: Path) -> None:
    stage = Direct(tmp_path, instances_document())
    with ServerThread(stage.service, ConnectionLimits()) as served:
        line = socket.create_connection(("127.0.0.1", served.port), HANG_SECONDS, (ALPHA.address, 0))
        line.sendall(b"GET " + HOSTNAME.encode() + b" HTTP/1.1\r\n")
        served.wait_for_connections(1)
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(5), served.loop)
        served.wait_until_draining()
        line.sendall(b"Host: a\r\n\r\n")
        (answer,) = answers(line.recv(65536), [])
        assert (answer.status, answer.closes) == (200, True)
        line.close()
        stopping.result(HANG_SECONDS)
    stage.close()
