"""Link-local clients without a MAC in their address are identified by the namespace's neighbour table."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from tests.kernel.stage import Host

from openimds.linux.process.daemons import run
from openimds.programs.metadata_agent.adapters import NamespaceNeighbours
from openimds.resources.network import dhcp_namespace, router_namespace

pytestmark = pytest.mark.kernel

PRIVATE = "fe80::1234:5678:9abc:def0"
MAC = "fa:16:3e:00:00:01"


def wired(host: Host, namespace: str) -> None:
    host.ownership.add("netns", namespace)
    run(["ip", "netns", "add", namespace])
    run(["ip", "-n", namespace, "link", "add", "a0", "type", "veth", "peer", "name", "a1"])
    for device in ("a0", "a1"):
        run(["ip", "-n", namespace, "link", "set", device, "up"])


def hears_of(namespace: str, device: str, mac: str) -> None:
    run(["ip", "-n", namespace, "neigh", "add", PRIVATE, "lladdr", mac, "dev", device, "nud", "reachable"])


def test_private_address_is_resolved_by_the_neighbour_table(host: Host):
    neighbours = NamespaceNeighbours(host.kernel, host.prefix)
    address = ip_address(PRIVATE)
    assert neighbours.mac_of("net", None, address) is None
    network, router = dhcp_namespace("net", host.prefix), router_namespace("r", host.prefix)
    for namespace in (network, router):
        wired(host, namespace)
    assert neighbours.mac_of("net", None, address) is None
    hears_of(network, "a0", MAC)
    hears_of(router, "a0", "fa:16:3e:00:00:02")
    assert neighbours.mac_of("net", None, address) == MAC
    assert neighbours.mac_of(None, "r", address) == "fa:16:3e:00:00:02"
    assert neighbours.mac_of("net", None, ip_address("fe80::1")) is None


def test_address_on_two_links_is_ambiguous(host: Host):
    router = router_namespace("r", host.prefix)
    wired(host, router)
    hears_of(router, "a0", MAC)
    hears_of(router, "a1", "fa:16:3e:00:00:02")
    assert NamespaceNeighbours(host.kernel, host.prefix).mac_of(None, "r", ip_address(PRIVATE)) is None
