"""Two instances on one bridge. One of them sends packets with forged addresses."""

from __future__ import annotations

import re

import pytest
from tests.kernel import stage
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.linux.firewall.port_security import PortSecurityTable
from openimds.linux.process.daemons import run
from openimds.netconfig.namespace_state import Bridge, Device, NamespaceState
from openimds.netconfig.port_security import PortFilter, port_filter
from openimds.resources.network import AddressPair, FixedIP, Port, Subnet

SUBNETS = [
    Subnet(id="s", network_id="n", project_id="p", cidr="10.7.0.0/24", gateway_ip="10.7.0.254"),
    Subnet(id="s6", network_id="n", project_id="p", cidr="fd00:7::/64", gateway_ip="fd00:7::fe", ip_version=6),
]
LIAR, VICTIM = 1, 2
VICTIM_LINK_LOCAL = "fe80::f816:3eff:fe00:2%eth0"
VICTIM_ADDRESSES = ("10.7.0.2", "fd00:7::2", VICTIM_LINK_LOCAL)


def port(host: Host, number: int, *, secure: bool = True, pairs: tuple[AddressPair, ...] = ()) -> Port:
    return Port(
        id=f"{host.tag}{number}-0000-4000-8000-000000000000",
        network_id="n",
        project_id="p",
        mac_address=f"fa:16:3e:00:00:0{number}",
        fixed_ips=(FixedIP("s", f"10.7.0.{number}"), FixedIP("s6", f"fd00:7::{number}")),
        port_security_enabled=secure,
        allowed_address_pairs=pairs,
    )


def filters(*ports: Port) -> tuple[PortFilter, ...]:
    return tuple(found for one in ports if (found := port_filter(one, SUBNETS)))


@pytest.fixture
def security(host: Host) -> PortSecurityTable:
    host.kernel.ensure_bridge(Bridge(name=host.bridge(), mtu=1442))
    for number in (LIAR, VICTIM):
        one = port(host, number)
        device = Device(
            name="eth0",
            host_name=one.tap_name,
            bridge=host.bridge(),
            mac_address=one.mac_address,
            mtu=1442,
            addresses=frozenset({f"10.7.0.{number}/24", f"fd00:7::{number}/64"}),
        )
        host.kernel.apply(
            NamespaceState(
                name=host.namespace(f"n{number}"),
                devices=(device,),
                sysctls={"net.ipv6.conf.default.accept_dad": "0"},  # link-local addresses are usable immediately
            )
        )
    table = PortSecurityTable(host.prefix)
    table.apply(filters(port(host, LIAR), port(host, VICTIM)))
    for address in VICTIM_ADDRESSES:  # a packet that does not arrive was then dropped by the rules
        until(lambda address=address: pings(host, address))  # type: ignore[misc]
    return table


def pings(host: Host, *arguments: str) -> bool:
    """Sends one ping from the forging instance."""
    return stage.pings(host.namespace(f"n{LIAR}"), *arguments)


def dropped(host: Host) -> int:
    """The number of the forging instance's packets that the table has dropped."""
    table = next(line for line in run(["nft", "list", "tables"]).splitlines() if "bridge" in line and host.tag in line)
    chain = run(["nft", "list", "chain", *table.split()[1:], port(host, LIAR).tap_name])
    return sum(int(count) for count in re.findall(r"counter packets (\d+) bytes \d+ drop", chain))
