"""The IP hop limit of token responses on the wire: rows 23 and 24 of docs/security.md."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.kernel.listening import V4, V6, KeptHere, listening, want, wire
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.http.messages import Request, Response
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run

pytestmark = pytest.mark.kernel

TOKEN = b"the-token-itself"
CONTAINER_NAT = """
table ip containers {
    chain outward {
        type nat hook postrouting priority 100
        oifname "eth0" masquerade
    }
}
"""


def answer(request: Request) -> Response:
    if request.method == "PUT":
        return Response(status=200, body=TOKEN, hop_limit=int(request.target.rpartition(b"/")[2]))
    return Response(status=200, body=b"something else")


@dataclass
class Wire:
    """The packets from port 80 on a device inside a namespace, each as (IP TTL or hop limit, TCP payload)."""

    raw: socket.socket
    seen: list[tuple[int, bytes]] = field(default_factory=list)

    def look(self) -> list[tuple[int, bytes]]:
        while True:
            try:
                packet = self.raw.recv(65536)
            except BlockingIOError:
                return self.seen
            read = _answer_in(packet)
            if read is not None:
                self.seen.append(read)

    def hops_of(self, text: bytes) -> list[int]:
        return [hops for hops, payload in self.look() if text in payload]


def _answer_in(packet: bytes) -> tuple[int, bytes] | None:
    if packet[12:14] == b"\x08\x00":
        hops, segment = packet[22], packet[14 + (packet[14] & 15) * 4 : 14 + int.from_bytes(packet[16:18], "big")]
    elif packet[12:14] == b"\x86\xdd" and packet[20] == socket.IPPROTO_TCP:
        hops, segment = packet[21], packet[54:]
    else:
        return None
    payload = segment[(segment[12] >> 4) * 4 :]
    return (hops, payload) if segment[:2] == b"\x00\x50" and payload else None


@dataclass(frozen=True)
class Guest:
    """An instance, and a container on a bridge inside it."""

    namespace: str
    container: str
    wire: Wire


@pytest.fixture
def guest(host: Host, tmp_path: Path) -> Iterator[Guest]:
    names = [_make(host, name) for name in ("qdhcp-1", "qvm-1", "inner-1")]
    service, instance, container = names
    wire(service, instance)
    run(
        ["ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", container], namespace=instance
    )
    for name, device, address in ((instance, "docker0", "10.99.0.1/24"), (container, "eth0", "10.99.0.2/24")):
        run(["ip", "addr", "add", address, "dev", device], namespace=name)
        run(["ip", "link", "set", device, "up"], namespace=name)
    run(["ip", "route", "add", "default", "via", "10.99.0.1"], namespace=container)
    netns.run_in(instance, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    run(["nft", "-f", "-"], namespace=instance, stdin=CONTAINER_NAT)
    kept = KeptHere()
    raw = netns.run_in(instance, _sniffer)
    try:
        with listening(tmp_path, kept) as agent:
            agent.server.handler = answer
            want(tmp_path, service, V4, V6)
            until(lambda: agent.direct.listening.listeners == 2)
            yield Guest(instance, container, Wire(raw))
    finally:
        raw.close()
        kept.close()


def _make(host: Host, name: str) -> str:
    namespace = host.namespace(name)
    host.ownership.add("netns", namespace)
    run(["ip", "netns", "add", namespace])
    run(["ip", "link", "set", "lo", "up"], namespace=namespace)
    return namespace


def _sniffer() -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    raw.bind(("eth0", 3))
    raw.setblocking(False)
    return raw


def _connect(namespace: str, host: str = V4.host) -> socket.socket:
    return netns.run_in(namespace, lambda: socket.create_connection((host, 80), HANG_SECONDS))


def _ask(connection: socket.socket, method: str, target: str = "/") -> bytes:
    connection.sendall(_request(method, target))
    whole = b""
    while b"\r\n\r\n" not in whole or len(whole.partition(b"\r\n\r\n")[2]) < _length(whole):
        more = connection.recv(65536)
        assert more, whole
        whole += more
    return whole.partition(b"\r\n\r\n")[2]


def _request(method: str, target: str = "/") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()


def _length(answer: bytes) -> int:
    return int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


@pytest.mark.parametrize("service", [V4.host, f"{V6.host}%eth0"], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("hops", [1, 2, 64])
def test_only_the_token_response_has_the_hop_limit(guest: Guest, service: str, hops: int) -> None:
    if ":" in service:
        until(lambda: "tentative" not in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest.namespace))
    with _connect(guest.namespace, service) as connection:
        assert _ask(connection, "GET") == b"something else"
        assert _ask(connection, "PUT", f"/{hops}") == TOKEN
        assert _ask(connection, "GET") == b"something else"
    assert guest.wire.hops_of(TOKEN) == [hops]
    assert guest.wire.hops_of(b"something else") == [64, 64]


def test_pipelined_responses_have_their_own_hop_limits(guest: Guest) -> None:
    with _connect(guest.namespace) as connection:
        connection.sendall(_request("GET") + _request("PUT", "/1") + _request("GET"))
        until(lambda: len(guest.wire.hops_of(b"something else")) == 2)
    assert guest.wire.hops_of(TOKEN) == [1]
    assert guest.wire.hops_of(b"something else") == [64, 64]


def test_token_with_one_hop_does_not_reach_a_container(guest: Guest) -> None:
    with _connect(guest.container) as connection:
        assert _ask(connection, "GET") == b"something else"  # the route to the container works
        connection.sendall(_request("PUT", "/1") + _request("GET"))
        until(lambda: len(guest.wire.hops_of(TOKEN)) >= 4)  # retransmitted several times
        assert set(guest.wire.hops_of(TOKEN)) == {1}
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    with _connect(guest.container) as connection:
        assert _ask(connection, "GET") == b"something else"


def test_token_with_two_hops_reaches_a_container(guest: Guest) -> None:
    with _connect(guest.container) as connection:
        assert _ask(connection, "PUT", "/2") == TOKEN
