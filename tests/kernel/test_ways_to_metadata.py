"""The path of a guest's request: all combinations of the settings, with and without a router, in both proxy modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.kernel.dhcp_stage import curl, pid_of
from tests.kernel.lab import Lab, lab_stage
from tests.kernel.metadata_proxies import chosen, in_both
from tests.kernel.stage import Host

from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.dhcp_network import MetadataOptions
from openimds.resources.network import Network, Subnet

pytestmark = [pytest.mark.kernel, in_both("lab")]

DHCP, ROUTER, NOBODY = "dhcp", "router", "nobody"
HOPS = {DHCP: "192.168.40.2", ROUTER: "192.168.40.1", NOBODY: "192.168.40.1"}
"""The next hop for 169.254.169.254. Without a route of its own it is the default route."""
OPTION_121 = {
    DHCP: "169.254.169.254/32 192.168.40.2 0.0.0.0/0 192.168.40.1",
    ROUTER: "169.254.169.254/32 192.168.40.1 0.0.0.0/0 192.168.40.1",
    NOBODY: None,
}
TABLE = [
    # enable_isolated_metadata, force_metadata, has a router → path
    (False, False, False, NOBODY),
    (False, False, True, ROUTER),
    (True, False, False, DHCP),
    (True, False, True, ROUTER),
    (False, True, False, DHCP),
    (False, True, True, DHCP),
    (True, True, False, DHCP),
    (True, True, True, DHCP),
]


@pytest.fixture
def lab(request: pytest.FixtureRequest, host: Host) -> Iterator[Lab]:
    with lab_stage(host, chosen(request)) as made:
        yield made


def choose(lab: Lab, *, isolated: bool, force: bool) -> None:
    choice = MetadataOptions(enable_isolated_metadata=isolated, force_metadata=force)
    lab.network.networks.settings = replace(lab.network.networks.settings, metadata=choice)


def asks_by(lab: Lab, guest: str) -> str:
    """The kind of namespace that answers the guest."""
    before = len(lab.network.server.requests)
    answer = curl(guest, "--max-time", "2", check=False)
    if not answer:
        assert len(lab.network.server.requests) == before
        return NOBODY
    request = lab.network.server.requests[-1]
    ids = {DHCP: request.values("x-neutron-network-id"), ROUTER: request.values("x-neutron-router-id")}
    assert ids in ({DHCP: [lab.network.network.id], ROUTER: []}, {DHCP: [], ROUTER: [lab.router.id]})
    return DHCP if ids[DHCP] else ROUTER


def names(rows: list[tuple[bool, bool, bool, str]]) -> list[str]:
    return [f"isolated={a}, force={b}, {'a' if c else 'no'} router" for a, b, c, _way in rows]


@pytest.mark.parametrize(("isolated", "force", "routed", "way"), TABLE, ids=names(TABLE))
def test_request_takes_the_expected_path(lab: Lab, *, isolated: bool, force: bool, routed: bool, way: str) -> None:
    choose(lab, isolated=isolated, force=force)
    if routed:
        lab.route(lab.network.subnet)
    port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.plug(port)
    lease = lab.network.configure(guest)
    assert lease.get("staticroutes") == OPTION_121[way]
    assert lease.get("msstaticroutes", lease.get("staticroutes")) == OPTION_121[way]
    assert f"via {HOPS[way]} " in run(["ip", "route", "get", "169.254.169.254"], namespace=guest)
    assert f"default via {HOPS[ROUTER]} " in run(["ip", "route"], namespace=guest)
    assert asks_by(lab, guest) == way
    has_proxy = "169.254.169.254" in run(["ip", "addr"], namespace=lab.network.namespace)
    assert has_proxy is (way == DHCP)
    ways = lab.network.networks.report[lab.network.network.id]["way_to_metadata"]
    assert ways[lab.network.subnet.id]["way"] == {NOBODY: "none"}.get(way, way)  # type: ignore[index]


@pytest.mark.parametrize("routed", [False, True], ids=["no router", "a router"])
def test_changed_settings_restart_no_other_program(lab: Lab, *, routed: bool) -> None:
    choose(lab, isolated=False, force=False)
    if routed:
        lab.route(lab.network.subnet)
    port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.plug(port)
    dnsmasq = pid_of(lab.network, "dnsmasq")
    router_pids = list(lab.routers.pids())
    assert len(router_pids) == (routed and not lab.routers.settings.proxy.is_direct)
    for isolated, force, with_router, way in [*TABLE, *reversed(TABLE)]:
        if with_router == routed:
            choose(lab, isolated=isolated, force=force)
            lab.round()
            lab.network.configure(guest)
            run(["ip", "neigh", "flush", "all"], namespace=guest)
            assert asks_by(lab, guest) == way, (isolated, force)
            assert lab.round() == []
    assert pid_of(lab.network, "dnsmasq") == dnsmasq
    assert is_alive(dnsmasq)
    assert list(lab.routers.pids()) == router_pids
    assert all(is_alive(pid) for pid in router_pids)


def test_path_follows_a_router_that_is_added_and_removed(lab: Lab) -> None:
    choose(lab, isolated=True, force=False)
    guest_port = lab.network.port("192.168.40.77")
    lab.round()
    guest = lab.network.boot(guest_port)
    assert asks_by(lab, guest) == DHCP
    interface = lab.route(lab.network.subnet)
    lab.round()
    lab.network.configure(guest)
    assert asks_by(lab, guest) == ROUTER
    lab.network.view.remove(interface, lab.router)
    lab.round()
    lab.network.configure(guest)
    assert asks_by(lab, guest) == DHCP


def test_metadata_network_identifies_the_router(lab: Lab) -> None:
    """`enable_metadata_network`: a subnet inside 169.254.0.0/16, and requests from the other networks of its router."""
    network = Network(id=f"{lab.network.host.tag}01-bbbb-4000-8000-00000000000e", name="metadata", project_id="p")
    subnet = Subnet(
        id="link-local",
        network_id=network.id,
        project_id="p",
        cidr="169.254.169.0/24",
        gateway_ip="169.254.169.253",
    )
    lab.network.view.add(network, subnet)
    lab.network.network, lab.network.subnet = network, subnet
    lab.route(subnet)
    guest_port = lab.network.port("169.254.169.245")
    choose(lab, isolated=True, force=False)
    lab.round()
    assert "169.254.169.254" not in run(["ip", "addr"], namespace=lab.network.namespace)
    choice = MetadataOptions(enable_isolated_metadata=True, enable_metadata_network=True)
    lab.network.networks.settings = replace(lab.network.networks.settings, metadata=choice)
    lab.round()
    assert "169.254.169.254/16" in run(["ip", "addr"], namespace=lab.network.namespace)
    guest = lab.network.plug(guest_port)
    run(["ip", "addr", "add", "169.254.169.245/24", "dev", "eth0"], namespace=guest)
    assert asks_by(lab, guest) == ROUTER
    assert lab.network.server.requests[-1].values("x-forwarded-for") == ["169.254.169.245"]
    assert "REDIRECT" in run(["iptables", "-t", "nat", "-S"], namespace=lab.qrouter)
    counted = run(["iptables", "-t", "nat", "-vnL", "PREROUTING", "-x"], namespace=lab.qrouter)
    assert " 0        0 REDIRECT" in counted, "it was answered on the network itself"
