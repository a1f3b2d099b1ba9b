"""The DHCP and the L3 agent with `metadata_proxy = direct` on the real kernel, beside a metadata agent that listens."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests.kernel.dhcp_stage import curl, pid_of, tap
from tests.kernel.lab import Lab, lab_stage
from tests.kernel.listening import KeptHere, listening
from tests.kernel.stage import Host
from tests.waiting import HANG_SECONDS, until

from openimds.linux.netns import netns
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.listener_file import listeners_file
from openimds.resources.network import Subnet

pytestmark = pytest.mark.kernel

ASK = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def lab(host: Host) -> Iterator[Lab]:
    with lab_stage(host) as made:
        choose(made, is_direct=True)
        yield made


@pytest.fixture
def kept() -> Iterator[KeptHere]:
    made = KeptHere()
    yield made
    made.close()


def choose(lab: Lab, *, is_direct: bool) -> None:
    for trade in (lab.network.networks, lab.routers):
        trade.settings = replace(trade.settings, proxy=replace(trade.settings.proxy, is_direct=is_direct))


def add_ipv6(lab: Lab) -> Subnet:
    subnet = Subnet(
        id="6" * 8 + "-bbbb-4000-8000-000000000006",
        network_id=lab.network.network.id,
        project_id="p",
        cidr="fd00:40::/64",
        gateway_ip="fd00:40::1",
        ip_version=6,
    )
    lab.network.view.add(subnet)
    return subnet


@dataclass
class Polling:
    """A guest that sends a request on a new connection again and again."""

    answers: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def by(self, guest: str) -> Iterator[None]:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    with socket.create_connection(("169.254.169.254", 80), HANG_SECONDS) as raw:
                        raw.sendall(ASK)
                        whole = b"".join(iter(lambda: raw.recv(65536), b""))
                    self.answers[whole.partition(b"\r\n\r\n")[2].decode() or "nothing"] += 1
                except OSError as error:
                    self.answers[str(error)] += 1
                stop.wait(0.002)

        thread = threading.Thread(target=netns.run_in, args=(guest, ask))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_port_is_reported_once_its_listener_is_open(lab: Lab, kept: KeptHere) -> None:
    port = lab.network.port("192.168.40.77")
    add_ipv6(lab)
    rounds, view, folder = lab.network.rounds, lab.network.view, lab.network.folder
    api = lab.network.networks._provisioning._api
    report = rounds.run_pass(view, full=True)
    (sentence,) = report.failures.values()
    assert sentence.startswith("nothing listens on 169.254.169.254:80 and [fe80::a9fe:a9fe%tap")
    assert sentence.endswith("is openimds metadata-agent running on this host?")
    assert "has dhcp" not in str(api)
    guest = lab.network.plug(port)
    assert lab.network.lease(guest)["ip"] == "192.168.40.77"  # everything else works
    with listening(folder, kept):
        until(lambda: not rounds.run_pass(view, full=True).failures)
        assert f"port {port.id} has dhcp" in str(api)
        lab.network.configure(guest)
        assert curl(guest) == f"network:{lab.network.network.id} 192.168.40.77 {port.mac_address}"
        assert lab.network.round(everything=True) == []


def test_guest_reaches_the_service_by_ipv6(lab: Lab, kept: KeptHere) -> None:
    port = lab.network.port("192.168.40.77")
    add_ipv6(lab)
    with listening(lab.network.folder, kept):
        lab.network.round(everything=True)
        guest = lab.network.plug(port)
        url = "http://[fe80::a9fe:a9fe%25eth0]/"
        until(lambda: port.mac_address in curl(guest, "--max-time", "2", url=url, check=False))
        assert curl(guest, url=url).startswith(f"network:{lab.network.network.id} fe80::")


def test_guest_reaches_the_service_through_the_router_only(lab: Lab, kept: KeptHere) -> None:
    settings = lab.network.networks.settings
    lab.network.networks.settings = replace(settings, metadata=replace(settings.metadata, force_metadata=False))
    port = lab.network.port("192.168.40.77")
    with listening(lab.network.folder, kept):
        lab.route(lab.network.subnet)
        lab.round()
        guest = lab.network.boot(port)
        assert curl(guest) == f"router:{lab.router.id} 192.168.40.77 {port.mac_address}"
        assert curl(guest, "--max-time", "1", url="http://192.168.40.1:9697/", check=False) == ""
        assert lab.round() == []
        lab.network.view.remove(lab.router)
        lab.router_rounds.run_pass(lab.network.view, full=True)
        until(lambda: not listeners_file(lab.router.id, lab.network.folder).exists())


def test_listener_of_a_removed_network_is_closed(lab: Lab, kept: KeptHere) -> None:
    with listening(lab.network.folder, kept) as agent:
        lab.network.round(everything=True)
        # The kernel accepts connections before the agent has counted the listener.
        until(lambda: agent.direct.listening.listeners == 1)
        lab.network.view.remove(lab.network.network)
        lab.network.round(everything=True)
        until(lambda: agent.direct.listening.listeners == 0)
        assert not kept.store


def test_switching_the_proxy_mode_refuses_no_request(lab: Lab, kept: KeptHere) -> None:
    choose(lab, is_direct=False)
    port = lab.network.port("192.168.40.77")
    lab.network.round(everything=True)
    haproxy = pid_of(lab.network, "haproxy")
    guest = lab.network.boot(port)
    direct = f"network:{lab.network.network.id} 192.168.40.77 {port.mac_address}"
    polling = Polling()
    with listening(lab.network.folder, kept) as agent, polling.by(guest):
        until(lambda: polling.answers["hello"] > 20)
        choose(lab, is_direct=True)
        words = lab.network.round(everything=True)
        assert words == ["ask the metadata agent to listen", f"retire haproxy (pid {haproxy})"]
        until(lambda: not is_alive(haproxy))
        before = polling.answers[direct]
        until(lambda: polling.answers[direct] > before + 20)
        choose(lab, is_direct=False)
        lab.network.round(everything=True)
        until(lambda: agent.direct.listening.listeners == 0)
        before = polling.answers["hello"]
        until(lambda: polling.answers["hello"] > before + 20)
    assert set(polling.answers) == {"hello", direct}
    assert lab.network.round(everything=True) == []


def test_haproxy_continues_until_the_agent_listens(lab: Lab) -> None:
    choose(lab, is_direct=False)
    port = lab.network.port("192.168.40.77")
    lab.network.round(everything=True)
    guest = lab.network.boot(port)
    choose(lab, is_direct=True)
    assert lab.network.rounds.run_pass(lab.network.view, full=True).failures
    assert curl(guest) == "hello"


def test_listener_is_opened_again_in_a_recreated_namespace(lab: Lab, kept: KeptHere) -> None:
    port = lab.network.port("192.168.40.77")
    with listening(lab.network.folder, kept):
        lab.network.round(everything=True)
        lab.network.host.kernel.remove_namespace(lab.network.namespace)
        lab.network.round(everything=True)
        guest = lab.network.boot(port)
        assert port.mac_address in curl(guest)
        run(["ip", "link", "delete", tap(lab.network)], namespace=lab.network.namespace)
        lab.network.round(everything=True)
        assert port.mac_address in curl(guest)
