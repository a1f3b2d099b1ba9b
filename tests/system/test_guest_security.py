"""Attacks of the checklist in docs/security.md that a guest can try, from real namespaces and in both modes.

The number in a test's name is the row of the checklist. Two guests have neighbouring addresses behind one router. A response
to the first guest never contains data of the second.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable

import pytest
from tests.security.test_framing import REFUSED
from tests.security.test_identity import FORGED, spellings
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud, run
from tests.system.raw_guest import HOSTNAME, Guest, parsed, request, user_data
from tests.waiting import until

pytestmark = [pytest.mark.usefixtures("metadata_proxy"), pytest.mark.timeout(300)]

FIRST_PRIVILEGED, FIRST_UNPRIVILEGED = 512, 1024


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> Network:
    api = ApiClient(cloud)
    made = api.network("n", "10.8.0.0/24")
    api.router("r", made)
    return made


@pytest.fixture(scope="module")
def guests(cloud: Cloud, network: Network) -> tuple[Guest, Guest]:
    api = ApiClient(cloud)
    made = [
        Guest(cloud, api, name, api.server(name, network, user_data=base64.b64encode(user_data(name)).decode()))
        for name in ("alpha", "beta")
    ]
    for guest in made:
        cloud.wait_booted(guest.id, guest.name)
    return made[0], made[1]


def own_or_refused(raw: bytes, alpha: Guest, beta: Guest) -> bool:
    status = raw.split(b" ", 2)[1]
    assert status in (b"200", b"400", b"403", b"431"), raw
    assert beta.id.encode() not in raw
    assert b"beta" not in raw.partition(b"\r\n\r\n")[2]
    return status != b"200" or alpha.name.encode() in raw


@pytest.mark.parametrize("name", FORGED)
def test_11_12_identity_headers_of_a_guest_are_ignored(guests: tuple[Guest, Guest], name: str) -> None:
    alpha, beta = guests
    for line in spellings(name):
        raw = alpha.send(request(HOSTNAME, line))
        assert own_or_refused(raw, alpha, beta), line


@pytest.mark.parametrize("size", [1, 1000, 8000, 16000, 40_000, 65_536])
def test_13_padded_heads_in_pieces_get_own_data_or_are_refused(guests: tuple[Guest, Guest], size: int) -> None:
    alpha, beta = guests
    whole = request(HOSTNAME, b"X-Pad: " + b"a" * size)
    assert own_or_refused(alpha.send(whole), alpha, beta)
    assert own_or_refused(alpha.send(*(whole[at : at + 1] for at in range(60)), whole[60:]), alpha, beta)


@pytest.mark.parametrize(("what", "raw"), REFUSED, ids=[what for what, _raw in REFUSED])
def test_15_ambiguous_framing_smuggles_no_request(guests: tuple[Guest, Guest], what: str, raw: bytes) -> None:
    """The smuggled request gets no response, and the connection is closed."""
    alpha, beta = guests
    answer = alpha.send(raw)
    assert b"beta" not in answer, what
    assert beta.id.encode() not in answer
    assert answer == b"" or answer.startswith(b"HTTP/1."), what


def test_16_pipelined_requests_are_answered_in_order(guests: tuple[Guest, Guest]) -> None:
    alpha, _beta = guests
    paths = (HOSTNAME, b"/latest/user-data", b"/nope", HOSTNAME)
    asked = [request(path, last=number == len(paths) - 1) for number, path in enumerate(paths)]
    answers = parsed(alpha.send(b"".join(asked)), len(paths))
    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    assert [answers[0].body, answers[1].body] == [b"alpha.novalocal", alpha.canary]


def test_9_token_is_valid_for_one_instance(guests: tuple[Guest, Guest]) -> None:
    alpha, beta = guests
    token = alpha.ask(b"/latest/api/token", b"X-aws-ec2-metadata-token-ttl-seconds: 600", method=b"PUT").body
    assert alpha.ask(HOSTNAME, b"X-aws-ec2-metadata-token: " + token).status == 200
    assert beta.ask(HOSTNAME, b"X-aws-ec2-metadata-token: " + token).status == 401


def test_18_unfinished_heads_do_not_delay_other_requests(guests: tuple[Guest, Guest]) -> None:
    alpha, beta = guests
    slow = [alpha.connect() for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert beta.ask().body == b"beta.novalocal"
        assert alpha.ask().body == b"alpha.novalocal"
    finally:
        for connection in slow:
            connection.close()


def test_21_connections_of_one_guest_are_limited(guests: tuple[Guest, Guest]) -> None:
    alpha, beta = guests
    tried = [tried_connection(alpha) for _ in range(300)]
    refused = {number for number, connection in enumerate(tried) if connection is None}
    held = {number: connection for number, connection in enumerate(tried) if connection is not None}

    def enough_are_refused() -> bool:
        refused.update(number for number, connection in held.items() if is_refused(connection))
        return len(refused) >= len(tried) - 257

    try:
        assert beta.ask().body == b"beta.novalocal", "the other guest is served"
        until(enough_are_refused, lambda: f"{len(refused)} of {len(tried)} connections are refused")
    finally:
        for connection in held.values():
            connection.close()
    until(lambda: alpha.send(request(HOSTNAME)).startswith(b"HTTP/1.1 200"), "the guest is served again")


def tried_connection(guest: Guest) -> socket.socket | None:
    """A new connection. None if HAProxy resets it before `connect` returns."""
    try:
        return guest.connect()
    except ConnectionError:
        return None


def is_refused(connection: socket.socket) -> bool:
    """Whether the connection was reset or has a 503. A plain close is not a refusal: idle connections are closed, too."""
    try:
        return connection.recv(100, socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 503 ")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_25_address_outside_the_network_is_not_identified(guests: tuple[Guest, Guest]) -> None:
    """Port security drops the packets. Without it the response is 404."""
    alpha, _beta = guests
    namespace = f"{alpha.cloud.prefix}qvm-{alpha.id}"
    run(["ip", "-n", namespace, "address", "add", "10.8.0.200/32", "dev", "eth0"])
    port = alpha.api.get("network", f"/v2.0/ports?device_id={alpha.id}")["ports"][0]["id"]
    try:
        alpha.api.put(
            "network", f"/v2.0/ports/{port}", {"port": {"port_security_enabled": False, "security_groups": []}}
        )
        until(lambda: reaches(lambda: alpha.connect(source="10.8.0.200")), "port security passes its packets")
        assert alpha.send(request(HOSTNAME), source="10.8.0.200").startswith(b"HTTP/1.1 404 ")
        assert alpha.ask().body == b"alpha.novalocal"
    finally:
        alpha.api.put("network", f"/v2.0/ports/{port}", {"port": {"port_security_enabled": True}})
        run(["ip", "-n", namespace, "address", "del", "10.8.0.200/32", "dev", "eth0"])


def reaches(connect: Callable[[], socket.socket]) -> bool:
    try:
        connect().close()
    except OSError:
        return False
    return True


def test_26_user_data_are_refused_after_their_time(guests: tuple[Guest, Guest]) -> None:
    alpha, beta = guests
    assert alpha.ask(b"/latest/user-data").body == alpha.canary
    alpha.set(UserDataMinutes="1440")
    assert alpha.ask(b"/latest/user-data").body == alpha.canary
    alpha.set(UserDataMinutes="1")
    logs = ("metadata-agent", "metadata-api")

    def events() -> int:
        return sum(alpha.cloud.log(part).count("user data requested after their time") for part in logs)

    before = events()
    try:
        until(lambda: alpha.ask(b"/latest/user-data").status == 403, "a minute after the launch user data are refused")
        assert alpha.ask(b"/openstack/latest/user_data").status == 403
        assert (alpha.ask().status, beta.ask(b"/latest/user-data").body) == (200, beta.canary)
        until(lambda: events() > before, "the log has the event")
    finally:
        alpha.unset("UserDataMinutes")
    until(lambda: alpha.ask(b"/latest/user-data").status == 200, "user data are served again")


def test_27_root_only_refuses_unprivileged_source_ports(guests: tuple[Guest, Guest]) -> None:
    alpha, beta = guests
    assert alpha.ask().status == 200
    alpha.set(RootOnly="enabled")
    ports = iter(range(FIRST_PRIVILEGED, FIRST_UNPRIVILEGED))
    try:
        until(lambda: alpha.ask().status == 403, "an unprivileged port is refused")
        for path in (b"/", b"/openstack/latest/meta_data.json", b"/latest/api/token", b"/nope"):
            assert alpha.ask(path).status == 403
        for spelt in (
            b"X-Openimds-Guest-Privileged: 1",
            b"x-openimds-guest-privileged: 1",
            b"X_Openimds_Guest_Privileged: 1",
        ):
            assert alpha.ask(HOSTNAME, spelt).status == 403, "the header of a guest is ignored"
        assert alpha.ask(port=next(ports)).body == b"alpha.novalocal"
        assert alpha.ask().status == 403, "the same bytes from an unprivileged port"
        assert alpha.ask(b"/openstack/latest/password", port=next(ports)).status == 200
        assert beta.ask().status == 200
    finally:
        alpha.unset("RootOnly")
    until(lambda: alpha.ask().status == 200, "all source ports are accepted again")
