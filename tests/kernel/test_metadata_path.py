"""A guest's request through a real HAProxy in a real namespace to the agent, and on to a metadata API."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.stage import Host
from tests.programs.metadata_api.metadata_stage import NET, Stage, agent_stage, port
from tests.waiting import HANG_SECONDS, until

from openimds.linux.process.daemons import PidFileDaemons, run
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, config_file, haproxy, haproxy_config
from openimds.netconfig.listener_file import ListenAddress, Scope

pytestmark = pytest.mark.kernel

GUEST = """
import socket, sys
raw = socket.create_connection(("127.0.0.1", 9697), 120, (sys.argv[1], 0))
raw.sendall(sys.stdin.buffer.read())
sys.stdout.buffer.write(b"".join(iter(lambda: raw.recv(65536), b"")))
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with agent_stage(tmp_path) as made:
        yield made


@pytest.fixture
def namespace(host: Host, stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace with this network's HAProxy, and the address 10.0.0.5 as the guest's source address.

    The parameter, if there is one, is `logs_all_requests` of the HAProxy.
    """
    name = host.namespace(f"qdhcp-{NET}")
    host.ownership.add("netns", name)
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])
    run(["ip", "-n", name, "address", "add", "10.0.0.5/32", "dev", "lo"])
    settings = ProxySettings(
        state_path=stage.folder,
        agent_socket=stage.socket,
        log_socket=stage.folder / "haproxy_log",
        logs_all_requests=getattr(request, "param", True),
    )
    proxy = ProxySpec(
        name=NET, namespace=name, scope=Scope.NETWORK, scope_id=NET, addresses=(ListenAddress("127.0.0.1", 9697),)
    )
    file = config_file(NET, settings)
    file.parent.mkdir(parents=True)
    file.write_text(haproxy_config(proxy, settings))
    (stage.folder / "external" / "pids").mkdir(parents=True)
    daemons = PidFileDaemons()
    daemon = haproxy(NET, name, settings)
    stage.start()
    daemons.start(daemon)
    try:
        yield name
    finally:
        daemons.stop(daemon)


def asked(namespace: str, request: bytes, source: str = "10.0.0.5") -> bytes:
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", GUEST, source]
    return subprocess.run(argv, input=request, capture_output=True, timeout=HANG_SECONDS, check=True).stdout


FORGED = (
    b"X-Forwarded-For: 10.0.0.66\r\nx_forwarded_for: 10.0.0.66\r\nX-Neutron-Router-ID: r\r\nX-Neutron-Network-ID: other\r\n"
    b"X_Neutron_Network_ID: other\r\nX-Instance-ID: vm-2\r\nX_Instance_ID: vm-2\r\nX-Tenant-ID: t2\r\n"
    b"X-Instance-ID-Signature: 0\r\nX-Metadata-Provider: p\r\nX-Openstack-Request-Id: req-of-the-guest\r\n"
)


def test_forged_identity_headers_are_ignored(namespace: str, stage: Stage):
    request = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: a\r\n" + FORGED + b"Connection: close\r\n\r\n"
    answer = asked(namespace, request)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nvm-1 tenant-of-vm-1")
    assert b"req-of-the-guest" not in answer


def test_request_id_appears_in_both_logs(namespace: str, stage: Stage):
    answer = asked(namespace, b"GET /openstack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head = answer.decode().lower().split("\r\n")
    (request_id,) = [line.split(": ")[1] for line in head if line.startswith("x-openstack-request-id")]
    until(lambda: stage.events("namespace proxy: request"))
    (agents,) = stage.events("request answered")
    (proxys,) = stage.events("namespace proxy: request")
    assert agents["request_id"] == proxys["request_id"] == request_id
    assert (proxys["network_id"], proxys["source"], proxys["status"], proxys["path"]) == (
        NET,
        "10.0.0.5",
        200,
        "/openstack",
    )


@pytest.mark.parametrize("namespace", [False], indirect=True)
def test_requests_that_the_agent_logs_are_not_in_the_log_of_the_proxy(namespace: str, stage: Stage):
    asked(namespace, b"GET /openstack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert asked(namespace, b"BROKEN\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    until(lambda: stage.events("namespace proxy: request"))
    assert [line["status"] for line in stage.events("namespace proxy: request")] == [400]
    assert len(stage.events("request answered")) == 1


def test_a_thousand_requests_on_keep_alive_connections(namespace: str, stage: Stage):
    pipelined = b"GET /n HTTP/1.1\r\nHost: a\r\n\r\n" * 999 + b"GET /n HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert asked(namespace, pipelined).count(b"vm-1 tenant-of-vm-1") == 1000


def test_unreachable_agent_causes_a_503_with_retry_after(namespace: str, stage: Stage):
    """HAProxy does not wait between its retries here, because a unix socket refuses immediately."""
    request = b"GET /openstack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert stage.stop() == 0
    answer = asked(namespace, request)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer.lower()
    (stage.folder / "log").write_text("")
    stage.start()
    assert asked(namespace, request).startswith(b"HTTP/1.1 200 ")


def test_address_of_another_network_is_not_identified(namespace: str, stage: Stage):
    """The address belongs to a port on another network, or to no port. Row 25 of docs/security.md."""
    elsewhere = port("p2", "vm-2", "172.16.0.9") | {"network_id": "another-network"}
    stage.control.put("port", elsewhere)
    for source in ("172.16.0.9", "10.0.0.6"):
        run(["ip", "-n", namespace, "address", "add", f"{source}/32", "dev", "lo"])
        answer = asked(namespace, b"GET /openstack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", source)
        assert answer.startswith(b"HTTP/1.1 404 "), source
        assert b"vm-" not in answer
    still = asked(namespace, b"GET /openstack HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert still.endswith(b"vm-1 tenant-of-vm-1")
