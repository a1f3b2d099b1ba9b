"""The metadata agent and the APIs stop, are killed, read their configuration, while 200 guests poll: nobody is refused."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.system.conftest import unstarted_cloud
from tests.system.pollers import Pollers, polling
from tests.waiting import HANG_SECONDS, until

from openimds.linux.process import identity

HOST = "169.254.169.254"
SCRIPT = Path(__file__).with_name("polling.py")


@dataclass(frozen=True, slots=True)
class Way:
    """How guests' requests come to the metadata agent."""

    proxy: str
    is_routed: bool = False
    """By the router's namespace; otherwise by the network's."""


WAYS = {"haproxy": Way("haproxy"), "direct": Way("direct"), "direct, routed": Way("direct", is_routed=True)}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def running(way: Way, only_root: None) -> Iterator[Cloud]:
    cloud = unstarted_cloud()
    try:
        file = cloud.state_dir.parent / "way.ini"
        file.write_text(f"[DEFAULT]\nmetadata_proxy = {way.proxy}\nforce_metadata = {not way.is_routed}\n")
        cloud.up(f"--config-file=dhcp-agent={file}", f"--config-file=l3-agent={file}")
        yield cloud
    finally:
        cloud.remove()


@pytest.fixture(scope="module")
def server(running: Cloud, way: Way) -> str:
    api = ApiClient(running)
    network = api.network("n", "192.168.40.0/24")
    if way.is_routed:
        api.router("r", network)
    found = api.server("vm", network)
    running.wait_booted(found, "vm")
    return found


@pytest.fixture
def guests(running: Cloud, server: str) -> Iterator[Pollers]:
    namespace = f"qvm-{server}"
    expected = running.inside(namespace, "curl", "-sf", f"http://{HOST}/latest/meta-data/instance-id")
    argv = ["ip", "netns", "exec", running.prefix + namespace, sys.executable, str(SCRIPT), HOST, "80", expected]
    with polling(*argv) as made:
        yield made


def agent(cloud: Cloud, name: str = "metadata-agent") -> identity.Process:
    found = identity.find(cloud.part(name)["pid"])
    assert found is not None
    return found


def until_replaced(cloud: Cloud, before: identity.Process, name: str = "metadata-agent") -> None:
    def is_replaced() -> bool:
        part = cloud.part(name)
        return bool(part["pid"] != before.pid and part["state"] == "running")

    until(is_replaced, f"{name} runs again")


def test_sigterm_is_not_noticed(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    before.send(signal.SIGTERM)
    until_replaced(running, before)
    guests.polled_on()
    assert guests.tally()["failures"] == []


def test_a_restart_by_command_is_not_noticed(running: Cloud, guests: Pollers) -> None:
    running.openimds("restart", "metadata-agent")
    guests.polled_on()
    assert guests.tally()["failures"] == []


def test_sighup_is_not_noticed(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    running.reload("metadata-agent")
    guests.polled_on()
    assert agent(running) == before
    assert guests.tally()["failures"] == []


def test_kill_9_costs_only_what_was_in_flight(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    before.send(signal.SIGKILL)
    assert before.wait(HANG_SECONDS)
    dead_at = time.monotonic()  # the pollers go by the same clock
    until_replaced(running, before)
    guests.polled_on()
    failures = guests.tally()["failures"]
    sys.stdout.write(f"in flight at the kill: {len(failures)}\n")
    assert [failure for failure in failures if failure["sent_at"] > dead_at] == []


@pytest.mark.parametrize("name", ["metadata-api", "control-api"])
def test_an_apis_restart_is_not_noticed_by_guests(name: str, running: Cloud, guests: Pollers) -> None:
    before = agent(running, name)
    before.send(signal.SIGTERM)
    until_replaced(running, before, name)
    guests.polled_on()
    assert guests.tally()["failures"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["metadata-api", "control-api"])
def test_who_connects_to_an_api_that_is_started_again_waits(name: str, number: signal.Signals, running: Cloud) -> None:
    ports = {"metadata-api": running.metadata_port, "control-api": running.control_port}
    before = agent(running, name)
    before.send(number)
    assert before.wait(HANG_SECONDS)
    with socket.create_connection(
        ("127.0.0.1", ports[name]), HANG_SECONDS
    ) as client:  # nobody accepts: it is in the queue
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = client.recv(65536)
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 300")), answer
    until_replaced(running, before, name)
