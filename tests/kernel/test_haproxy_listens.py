"""A running HAProxy that does not listen at its address is replaced. A HAProxy that does is left alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.kernel.stage import Host

from openimds.agents.metadata_proxy import MetadataProxyDriver
from openimds.linux.netns import netns
from openimds.linux.netns.probe import NamespaceProbe
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import PidFileDaemons
from openimds.netconfig.haproxy import ProxySettings, ProxySpec, config_file, haproxy, router_proxy
from openimds.netconfig.namespace_state import Daemon, NamespaceState

pytestmark = pytest.mark.kernel
PORT, ELSEWHERE = 9697, 9698


@dataclass(frozen=True)
class Kept:
    proxies: MetadataProxyDriver
    proxy: ProxySpec
    settings: ProxySettings
    daemon: Daemon

    def keep(self) -> tuple[str, ...]:
        return self.proxies.ensure(self.proxy, self.settings)

    def pid(self) -> int:
        return int(self.daemon.pid_file.read_text())

    def run_with(self, before: str, after: str) -> int:
        """Starts a HAProxy with another configuration, beside the right and older file. Returns its pid."""
        PidFileDaemons().stop(self.daemon)
        file = config_file(self.proxy.name, self.settings)
        right = file.read_text()
        assert before in right
        file.write_text(right.replace(before, after))
        pid = PidFileDaemons().start(self.daemon)
        file.write_text(right)
        os.utime(file, (0, 0))
        return pid

    def is_taken(self, host: str) -> bool:
        def connect() -> bool:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                return probe.connect_ex((host, PORT)) == 0

        return netns.run_in(self.proxy.namespace, connect)


@pytest.fixture
def kept(host: Host) -> Iterator[Kept]:
    namespace = host.namespace("qrouter-1")
    host.kernel.apply(NamespaceState(name=namespace))
    folder = host.state_path
    settings = ProxySettings(state_path=folder, agent_socket=folder / "agent", log_socket=folder / "log")
    proxy = router_proxy(name="r1", namespace=namespace, port=PORT, access_mark=0)
    proxies = MetadataProxyDriver(PidFileDaemons(), NamespaceProbe(host.kernel.handles))
    one = Kept(proxies, proxy, settings, haproxy("r1", namespace, settings))
    one.keep()
    yield one
    proxies.remove("r1", namespace, settings)
    by_namespace.kill_processes_in(namespace)


def test_listening_haproxy_is_left_alone(kept: Kept) -> None:
    pid = kept.pid()
    assert (kept.keep(), kept.keep(), kept.pid()) == ((), (), pid)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        (f":{PORT}", f":{ELSEWHERE}", f"0.0.0.0:{PORT} and [::]:{PORT}"),
        (f"[::]:{PORT}", f"[::]:{ELSEWHERE}", f"[::]:{PORT}"),
    ],
    ids=["another configuration", "no IPv6"],
)
def test_haproxy_that_listens_elsewhere_is_replaced(kept: Kept, before: str, after: str, where: str) -> None:
    pid = kept.run_with(before, after)
    assert not kept.is_taken("::1")
    assert kept.keep() == (f"replace haproxy, which does not listen on {where} (pid {pid} → {kept.pid()})",)
    assert kept.is_taken("127.0.0.1")
    assert kept.is_taken("::1")
    assert kept.keep() == ()


def test_foreign_socket_at_the_address_does_not_count(kept: Kept) -> None:
    def listen() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("0.0.0.0", PORT))
        made.listen()
        return made

    pid = kept.run_with(f":{PORT}", f":{ELSEWHERE}")
    with netns.run_in(kept.proxy.namespace, listen):
        words = kept.keep()
    assert words == (
        f"replace haproxy, which does not listen on 0.0.0.0:{PORT} and [::]:{PORT} (pid {pid} → {kept.pid()})",
    )
