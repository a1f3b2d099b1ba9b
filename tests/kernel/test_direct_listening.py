"""`metadata_proxy = direct`: listeners in real namespaces are opened and closed according to the listener files."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.listening import V4, V6, Agent, KeptHere, ask, is_open, listening, want, wire
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.netns import netns
from openimds.linux.process.daemons import run
from openimds.netconfig.listener_file import ListenAddress, Scope, listeners_file

pytestmark = pytest.mark.kernel


@pytest.fixture
def kept() -> Iterator[KeptHere]:
    made = KeptHere()
    yield made
    made.close()


@pytest.fixture
def agent(tmp_path: Path, kept: KeptHere, host: Host) -> Iterator[Agent]:
    with listening(tmp_path, kept) as made:
        yield made


@pytest.fixture
def pair(host: Host) -> tuple[str, str, str]:
    """A network's namespace, a guest's namespace beside it, and the guest's MAC."""
    namespace, guest = make(host, "qdhcp-1"), make(host, "qvm-1")
    return namespace, guest, wire(namespace, guest)


def make(host: Host, name: str) -> str:
    namespace = host.namespace(name)
    host.ownership.add("netns", namespace)
    run(["ip", "netns", "add", namespace])
    run(["ip", "link", "set", "lo", "up"], namespace=namespace)
    return namespace


def test_listener_follows_its_file(agent: Agent, tmp_path: Path, pair: tuple[str, str, str]) -> None:
    namespace, guest, mac = pair
    assert not is_open(guest)
    file = want(tmp_path, namespace, V4)
    until(lambda: is_open(guest))
    assert ask(guest, V4.host) == f"network:{namespace} 169.254.7.7 {mac}"
    file.unlink()
    until(lambda: not is_open(guest))
    assert agent.direct.listening.listeners == 0


def test_listener_on_an_ipv6_link_local_address(agent: Agent, tmp_path: Path, pair: tuple[str, str, str]) -> None:
    namespace, guest, mac = pair
    want(tmp_path, namespace, V4, V6)
    until(lambda: is_open(guest))
    until(lambda: "tentative" not in run(["ip", "-6", "addr", "show", "dev", "eth0"], namespace=guest))
    tag, peer, seen = ask(guest, "fe80::a9fe:a9fe%eth0").split(" ")
    assert (tag, seen) == (f"network:{namespace}", mac)
    assert peer.startswith("fe80::")
    assert peer.endswith("%eth0")  # in a router's namespace, the device identifies the network


def test_a_router_listens_on_both_families_of_its_own_port(agent: Agent, tmp_path: Path, host: Host) -> None:
    namespace = make(host, "qrouter-1")
    want(tmp_path, namespace, ListenAddress("0.0.0.0", 9697), ListenAddress("::", 9697), scope=Scope.ROUTER)
    until(lambda: is_open(namespace, "127.0.0.1", 9697) and is_open(namespace, "::1", 9697))
    assert ask(namespace, "::1", 9697).startswith(f"router:{namespace} ::1")


def test_replaced_namespace_gets_a_new_listener(
    agent: Agent, tmp_path: Path, host: Host, pair: tuple[str, str, str]
) -> None:
    namespace, guest, _ = pair
    want(tmp_path, namespace, V4, V6)
    until(lambda: is_open(guest))
    run(["ip", "netns", "delete", namespace])
    until(lambda: agent.direct.listening.listeners == 0)  # nothing keeps the old namespace alive
    until(lambda: "eth0" not in run(["ip", "-o", "link"], namespace=guest))
    make(host, "qdhcp-1")
    wire(namespace, guest)
    want(tmp_path, namespace, V4, V6)
    until(lambda: is_open(guest))
    until(lambda: agent.direct.listening.listeners == 2)


def test_replaced_device_gets_a_new_listener(agent: Agent, tmp_path: Path, pair: tuple[str, str, str]) -> None:
    namespace, guest, _ = pair
    want(tmp_path, namespace, V4, V6)
    until(lambda: is_open(guest, "fe80::a9fe:a9fe%eth0"))
    run(["ip", "link", "delete", "eth0"], namespace=namespace)
    # The index of the old device is not reused.
    run(["ip", "link", "add", "another", "type", "bridge"], namespace=namespace)
    wire(namespace, guest)
    want(tmp_path, namespace, V4, V6)
    until(lambda: is_open(guest, "fe80::a9fe:a9fe%eth0"))


def test_two_hundred_namespaces_have_listeners(agent: Agent, tmp_path: Path, host: Host) -> None:
    namespaces = [host.namespace(f"n{number}") for number in range(200)]
    for namespace in namespaces:
        host.ownership.add("netns", namespace)
    run(["ip", "-batch", "-"], stdin="".join(f"netns add {namespace}\n" for namespace in namespaces))
    everywhere = ListenAddress("0.0.0.0", 9697), ListenAddress("::", 9697)
    for namespace in namespaces:
        run(["ip", "link", "set", "lo", "up"], namespace=namespace)
        want(tmp_path, namespace, *everywhere)
    until(lambda: agent.direct.listening.listeners == 400)
    for namespace in namespaces:
        assert ask(namespace, "127.0.0.1", 9697).startswith(f"network:{namespace} ")


def test_bad_files_and_missing_namespaces_do_not_affect_other_listeners(
    agent: Agent, tmp_path: Path, pair: tuple[str, str, str]
) -> None:
    namespace, guest, _ = pair
    file = want(tmp_path, namespace, V4)
    (file.parent / "half.json").write_text(file.read_text()[:40])
    (file.parent / "gone.json").write_text(file.read_text().replace(f'"{namespace}"', f'"{namespace}-gone"'))
    (file.parent / ".new.json").write_text("{")
    (file.parent / "n1.conf").write_text("global\n")
    until(lambda: is_open(guest))
    until(lambda: agent.direct.listening.listeners == 1)


def test_occupied_port_is_reported_and_opened_once_it_is_free(
    agent: Agent, tmp_path: Path, pair: tuple[str, str, str]
) -> None:
    namespace, guest, _ = pair

    def take() -> socket.socket:
        taken = socket.socket()
        taken.bind((V4.host, V4.port))
        taken.listen()
        return taken

    taken = netns.run_in(namespace, take)
    want(tmp_path, namespace, V4)
    until(lambda: agent.direct.listening.failures)
    assert "is in use by another program" in agent.direct.listening.failures[f"network:{namespace}"]
    until(lambda: (agent.direct.listening.listeners, agent.direct.listening.wanted) == (0, 1))
    taken.close()
    until(lambda: is_open(guest))
    until(lambda: (agent.direct.listening.listeners, agent.direct.listening.wanted) == (1, 1))
    assert agent.direct.listening.failures == {}


def test_connection_during_a_restart_is_served_by_the_next_agent(
    tmp_path: Path, kept: KeptHere, host: Host, pair: tuple[str, str, str]
) -> None:
    namespace, guest, mac = pair
    want(tmp_path, namespace, V4, V6)
    with listening(tmp_path, kept):
        until(lambda: len(kept.store) == 2)
    waiting = netns.run_in(guest, lambda: socket.create_connection((V4.host, 80), HANG_SECONDS))
    waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
    kept.restart()
    with listening(tmp_path, kept) as agent, waiting:
        assert agent.direct.listening.listeners == 2
        assert b"".join(iter(lambda: waiting.recv(4096), b"")).endswith(
            f"network:{namespace} 169.254.7.7 {mac}".encode()
        )


def test_stored_socket_of_a_former_namespace_is_not_used(tmp_path: Path, kept: KeptHere, host: Host) -> None:
    namespace = make(host, "qdhcp-1")
    everywhere = replace(V4, host="0.0.0.0")
    want(tmp_path, namespace, everywhere)
    with listening(tmp_path, kept):
        until(lambda: len(kept.store) == 1)
    run(["ip", "netns", "delete", namespace])
    make(host, "qdhcp-1")
    want(tmp_path, namespace, everywhere)
    kept.restart()
    (former,) = kept.given.values()
    with listening(tmp_path, kept):
        assert former.fileno() == -1
        assert is_open(namespace, "127.0.0.1")
        listeners_file(namespace, tmp_path).unlink()
        until(lambda: not kept.store)
