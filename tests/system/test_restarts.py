"""The metadata agent and the APIs are restarted, killed or reloaded while 200 clients poll. No connection is refused."""

from __future__ import annotations

import pathlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.system.conftest import unstarted_cloud
from tests.system.pollers import Pollers, polling
from tests.waiting import HANG_SECONDS, until

from openimds.linux.process import identity

HOST = "169.254.169.254"
SCRIPT = pathlib.Path(__file__).with_name("polling.py")


@dataclass(frozen=True, slots=True)
class Path:
    """The path of requests to the metadata agent."""

    proxy: str
    is_routed: bool = False
    """Whether requests arrive in the router's namespace instead of the network's."""


PATHS = {"haproxy": Path("haproxy"), "direct": Path("direct"), "direct, routed": Path("direct", is_routed=True)}


@pytest.fixture(scope="module", params=PATHS)
def path(request: pytest.FixtureRequest) -> Path:
    return PATHS[request.param]


@pytest.fixture(scope="module")
def running(path: Path, only_root: None) -> Iterator[Cloud]:
    cloud = unstarted_cloud()
    try:
        file = cloud.state_dir.parent / "path.ini"
        file.write_text(f"[DEFAULT]\nmetadata_proxy = {path.proxy}\nforce_metadata = {not path.is_routed}\n")
        cloud.up(f"--config-file=dhcp-agent={file}", f"--config-file=l3-agent={file}")
        yield cloud
    finally:
        cloud.remove()


@pytest.fixture(scope="module")
def server(running: Cloud, path: Path) -> str:
    api = ApiClient(running)
    network = api.network("n", "192.168.40.0/24")
    if path.is_routed:
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

    until(is_replaced, f"{name} is restarted")


def test_sigterm_fails_no_request(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    before.send(signal.SIGTERM)
    until_replaced(running, before)
    guests.polled_on()
    assert guests.tally()["failures"] == []


def test_restart_by_command_fails_no_request(running: Cloud, guests: Pollers) -> None:
    running.openimds("restart", "metadata-agent")
    guests.polled_on()
    assert guests.tally()["failures"] == []


def test_sighup_fails_no_request(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    running.reload("metadata-agent")
    guests.polled_on()
    assert agent(running) == before
    assert guests.tally()["failures"] == []


def test_sigkill_fails_only_requests_in_flight(running: Cloud, guests: Pollers) -> None:
    before = agent(running)
    before.send(signal.SIGKILL)
    assert before.wait(HANG_SECONDS)
    dead_at = time.monotonic()  # polling.py uses the same clock
    until_replaced(running, before)
    guests.polled_on()
    failures = guests.tally()["failures"]
    sys.stdout.write(f"in flight at the kill: {len(failures)}\n")
    assert [failure for failure in failures if failure["sent_at"] > dead_at] == []


@pytest.mark.parametrize("name", ["metadata-api", "control-api"])
def test_restart_of_an_api_fails_no_request_of_a_guest(name: str, running: Cloud, guests: Pollers) -> None:
    before = agent(running, name)
    before.send(signal.SIGTERM)
    until_replaced(running, before, name)
    guests.polled_on()
    assert guests.tally()["failures"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["metadata-api", "control-api"])
def test_connection_to_a_stopped_api_is_served_by_the_next_process(
    name: str, number: signal.Signals, running: Cloud
) -> None:
    ports = {"metadata-api": running.metadata_port, "control-api": running.control_port}
    before = agent(running, name)
    before.send(number)
    assert before.wait(HANG_SECONDS)
    with socket.create_connection(
        ("127.0.0.1", ports[name]), HANG_SECONDS
    ) as client:  # no process accepts: the connection waits in the backlog
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = client.recv(65536)
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 300")), answer
    until_replaced(running, before, name)
