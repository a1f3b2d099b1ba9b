from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.netconfig.cloud import ROUTER, ROUTER_PORT, router_view, subnet_v6

from openimds.netconfig.radvd import RadvdSettings, radvd, radvd_config
from openimds.resources.network import FixedIP

SETTINGS = RadvdSettings(state_path=Path("/s"), user="radvd")
PORT = replace(ROUTER_PORT, fixed_ips=(FixedIP("subnet-6", "2001:db8::1"),))


def config(mode: str | None, **changes: Any) -> str:
    return radvd_config(router_view(internal=(PORT,), subnets=(subnet_v6(ipv6_ra_mode=mode, **changes),)))


def test_slaac_prefix_is_autonomous() -> None:
    assert (
        config("slaac", dns_nameservers=("2001:db8::53", "9.9.9.9"))
        == """\
interface qr-bbbbbbbb-bb
{
    AdvSendAdvert on;
    AdvRASrcAddress { fe80::f816:3eff:fe00:1; };
    MinRtrAdvInterval 30;
    MaxRtrAdvInterval 100;
    AdvLinkMTU 1442;
    RDNSS 2001:db8::53 { };
    prefix 2001:db8::/64
    {
        AdvOnLink on;
        AdvAutonomous on;
    };
};
"""
    )


def test_dhcpv6_modes_set_the_flags() -> None:
    stateful, stateless = config("dhcpv6-stateful"), config("dhcpv6-stateless", dns_nameservers=("2001:db8::53",))
    assert "AdvManagedFlag on;\n    AdvOtherConfigFlag on;" in stateful
    assert "AdvAutonomous off" in stateful
    assert "AdvManagedFlag" not in stateless
    assert "AdvOtherConfigFlag on" in stateless
    assert "AdvAutonomous on" in stateless
    assert "RDNSS" not in stateless


def test_configuration_is_empty_without_an_advertised_subnet() -> None:
    assert config(None) == ""
    assert radvd_config(router_view()) == ""
    assert radvd_config(router_view(router=replace(ROUTER, admin_state_up=False), internal=(PORT,))) == ""


def test_router_of_another_project_advertises_nothing_on_a_shared_network() -> None:
    beside = replace(PORT, fixed_ips=(FixedIP("subnet-6", "2001:db8::66"),), project_id="other")
    subnet = subnet_v6(ipv6_ra_mode="slaac")
    assert radvd_config(router_view(internal=(beside,), subnets=(subnet,))) == ""
    as_gateway = replace(PORT, project_id="other")
    assert radvd_config(router_view(internal=(as_gateway,), subnets=(subnet,))) == config("slaac")


def test_command_line_has_the_user() -> None:
    daemon = radvd("r1", "qrouter-r1", SETTINGS)
    assert " ".join(daemon.argv) == ("radvd -C /s/ra/r1.radvd.conf -p /s/external/pids/r1.pid.radvd -m syslog -u radvd")
    assert "-u" not in radvd("r1", "qrouter-r1", replace(SETTINGS, user=None)).argv
