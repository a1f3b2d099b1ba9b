"""Two instances on one bridge, one of which forges addresses: packets that their own kernels send."""

from __future__ import annotations

import pytest
from tests.kernel import port_security_stage
from tests.kernel.port_security_stage import (
    LIAR,
    VICTIM,
    VICTIM_ADDRESSES,
    VICTIM_LINK_LOCAL,
    dropped,
    filters,
    pings,
    port,
)
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.linux.firewall.iptables import nft_apply
from openimds.linux.firewall.port_security import PortSecurityTable
from openimds.linux.process.daemons import run
from openimds.resources.network import AddressPair

pytestmark = pytest.mark.kernel

security = port_security_stage.security


def liar(host: Host, *argv: str) -> None:
    run(argv, namespace=host.namespace(f"n{LIAR}"))


def is_refused(host: Host, *arguments: str) -> bool:
    """True if the packet is counted as dropped, and neither answered nor lost on the way."""
    before = dropped(host)
    return not pings(host, *arguments) and dropped(host) > before


def test_packets_with_own_addresses_pass(host: Host, security: PortSecurityTable) -> None:
    for address in VICTIM_ADDRESSES:
        until(lambda address=address: pings(host, address))  # type: ignore[misc]
    assert dropped(host) == 0


def test_foreign_ipv4_address_is_dropped(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    assert is_refused(host, "-I", "10.7.0.3", "10.7.0.2")
    liar(host, "ip", "addr", "add", "169.254.169.254/32", "dev", "eth0")
    assert is_refused(host, "-I", "169.254.169.254", "10.7.0.2")


def test_allowed_address_pair_passes(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    allowed = port(host, LIAR, pairs=(AddressPair("10.7.0.3"),))
    assert security.apply(filters(allowed, port(host, VICTIM))) == (f"set port security of {allowed.tap_name}",)
    until(lambda: pings(host, "-I", "10.7.0.3", "10.7.0.2"))


def test_foreign_mac_is_dropped(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "link", "set", "eth0", "address", "fa:16:3e:00:00:77")
    assert is_refused(host, "10.7.0.2")


def test_foreign_ipv6_address_is_dropped(host: Host, security: PortSecurityTable) -> None:
    for address in ("fd00:7::3", "fe80::f816:3eff:fe00:3", "fe80::a9fe:a9fe"):
        liar(host, "ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        source = f"{address}%eth0" if address.startswith("fe80") else address
        assert is_refused(host, "-I", source, VICTIM_LINK_LOCAL), address


def test_link_local_address_without_mac_passes(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "fe80::1234:5678:9abc:def0/64", "dev", "eth0", "nodad")
    until(lambda: pings(host, "-I", "fe80::1234:5678:9abc:def0%eth0", VICTIM_LINK_LOCAL))
    assert dropped(host) == 0


def test_disabled_port_security_drops_nothing(host: Host, security: PortSecurityTable) -> None:
    liar(host, "ip", "addr", "add", "10.7.0.3/24", "dev", "eth0")
    assert security.apply(filters(port(host, LIAR, secure=False), port(host, VICTIM)))
    until(lambda: pings(host, "-I", "10.7.0.3", "10.7.0.2"))


def test_intact_chains_are_untouched_and_broken_ones_repaired(host: Host, security: PortSecurityTable) -> None:
    desired = filters(port(host, LIAR), port(host, VICTIM))
    assert security.apply(desired) == ()
    assert PortSecurityTable(host.prefix).apply(desired) == ()
    table = next(line for line in run(["nft", "list", "tables"]).splitlines() if "bridge" in line and host.tag in line)
    run(["nft", "delete", *table.split()])
    assert security.apply(desired)
    assert security.apply(desired) == ()
    assert PortSecurityTable(host.prefix).taps() == {one.tap for one in desired}
    assert security.apply(desired[:1]) == (f"remove port security of {desired[1].tap}",)
    assert PortSecurityTable(host.prefix).taps() == {desired[0].tap}


def test_table_of_an_earlier_release_gets_the_sets_of_fragments(host: Host, security: PortSecurityTable) -> None:
    """A bug: the base chain of that release is complete, so the table counted as set up, and no port's chain could be
    added.
    """
    tables = [line.split() for line in run(["nft", "list", "tables"]).splitlines()]
    (listed,) = [words for words in tables if words[1] == "bridge" and host.tag in words[2]]
    name = listed[-1]
    earlier = (
        f"delete table bridge {name}\nadd table bridge {name}\n"
        f"add map bridge {name} instances {{ type ifname : verdict; }}\n"
        f"add chain bridge {name} prerouting {{ type filter hook prerouting priority filter; policy accept; }}\n"
        f"add rule bridge {name} prerouting iifname vmap @instances\n"
    )
    nft_apply(earlier)
    both = filters(port(host, LIAR), port(host, VICTIM))
    assert len(PortSecurityTable(host.prefix).apply(both)) == 2
    assert PortSecurityTable(host.prefix).apply(both) == ()
    until(lambda: pings(host, "10.7.0.2"))
