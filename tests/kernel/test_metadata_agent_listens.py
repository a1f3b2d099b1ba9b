"""The metadata agent as a program, and its options' effect inside a namespace."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.listening import V4, want
from tests.kernel.stage import Host
from tests.programs.metadata_api.metadata_stage import Stage, agent_stage
from tests.waiting import HANG_SECONDS, until

from openimds.linux.netns import netns
from openimds.linux.process.daemons import run

pytestmark = pytest.mark.kernel


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with agent_stage(tmp_path) as made:
        yield made


@pytest.fixture
def namespace(host: Host) -> str:
    """A namespace with the metadata address."""
    name = host.namespace("qdhcp-1")
    host.ownership.add("netns", name)
    run(["ip", "netns", "add", name])
    run(["ip", "link", "set", "lo", "up"], namespace=name)
    run(["ip", "address", "add", f"{V4.host}/32", "dev", "lo"], namespace=name)
    return name


def heartbeat_facts(stage: Stage) -> dict[str, Any]:
    """The configurations of the newest heartbeat."""
    beats = [call for call in stage.control.calls if "/agents/" in call.path]
    return dict(json.loads(beats[-1].body)["configurations"]) if beats else {}


def connect(namespace: str) -> socket.socket:
    return netns.run_in(namespace, lambda: socket.create_connection((V4.host, V4.port), HANG_SECONDS))


def refused(namespace: str) -> bool:
    """True if one more connection is refused immediately, without a request."""
    with connect(namespace) as one:
        return one.recv(4096).startswith(b"HTTP/1.1 503")


def test_connection_limit_per_guest_applies_in_direct_mode(stage: Stage, namespace: str) -> None:
    stage.configure("shared", "[metadata_haproxy]", "connections_per_guest = 2")
    want(stage.folder, namespace, V4)
    stage.start()
    there = [connect(namespace) for _ in range(2)]
    assert refused(namespace)
    for one in there:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):  # the open connections received nothing
            one.recv(1)
    for one in there:
        one.close()
    assert stage.stop() == 0


def test_heartbeat_counts_open_and_desired_listeners_and_names_failures(stage: Stage, namespace: str) -> None:
    def take() -> socket.socket:
        taken = socket.socket()
        taken.bind((V4.host, V4.port))
        taken.listen()
        return taken

    with netns.run_in(namespace, take):
        want(stage.folder, namespace, V4)
        stage.start()
        until(lambda: heartbeat_facts(stage).get("listen_failures"))
        facts = heartbeat_facts(stage)
        assert (facts["listeners"], facts["listeners_wanted"]) == (0, 1)
        assert "is in use by another program" in facts["listen_failures"][f"network:{namespace}"]
    until(lambda: heartbeat_facts(stage).get("listeners") == 1)
    assert stage.stop() == 0
