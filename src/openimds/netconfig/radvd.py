"""The configuration of radvd, which sends the IPv6 router advertisements of a router."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openimds.netconfig.addresses import link_local
from openimds.netconfig.namespace_state import Daemon
from openimds.netconfig.router_namespace import RouterView
from openimds.resources.network import Port, Subnet

_AUTONOMOUS = frozenset({"slaac", "dhcpv6-stateless"})
MIN_INTERVAL_SECONDS = 30
MAX_INTERVAL_SECONDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RadvdSettings:
    state_path: Path
    user: str | None = None
    """The user that radvd switches to; None if it keeps its user."""


def radvd_file(router_id: str, settings: RadvdSettings) -> Path:
    return settings.state_path / "ra" / f"{router_id}.radvd.conf"


def radvd(router_id: str, namespace: str, settings: RadvdSettings) -> Daemon:
    pid_file = settings.state_path / "external" / "pids" / f"{router_id}.pid.radvd"
    user = ("-u", settings.user) if settings.user else ()
    argv = ("radvd", "-C", str(radvd_file(router_id, settings)), "-p", str(pid_file), "-m", "syslog", *user)
    return Daemon(name="radvd", argv=argv, pid_file=pid_file, namespace=namespace)


def radvd_config(view: RouterView) -> str:
    """The content of the configuration file; empty if no network needs advertisements."""
    if not view.router.admin_state_up:
        return ""
    return "".join(_interface(view, port) for port in view.internal_ports if _advertised(view, port))


def _advertised(view: RouterView, port: Port) -> tuple[Subnet, ...]:
    """The subnets to advertise: only those for which the port is the gateway.

    Otherwise a router of another project could become the default router of the network.
    """
    return tuple(subnet for subnet in view.gateway_subnets(port) if subnet.ip_version == 6 and subnet.ipv6_ra_mode)


def _interface(view: RouterView, port: Port) -> str:
    subnets = _advertised(view, port)
    modes = {subnet.ipv6_ra_mode for subnet in subnets}
    lines = [
        f"interface {port.router_device_name}",
        "{",
        "    AdvSendAdvert on;",
        # By default radvd uses any link-local address, and so possibly fe80::a9fe:a9fe, which is not unique on the link.
        f"    AdvRASrcAddress {{ {link_local(port.mac_address)}; }};",
        f"    MinRtrAdvInterval {MIN_INTERVAL_SECONDS};",
        f"    MaxRtrAdvInterval {MAX_INTERVAL_SECONDS};",
        f"    AdvLinkMTU {view.networks[port.network_id].mtu};",
        *(["    AdvManagedFlag on;"] if "dhcpv6-stateful" in modes else []),
        *(["    AdvOtherConfigFlag on;"] if modes & {"dhcpv6-stateful", "dhcpv6-stateless"} else []),
        *_dns_lines(subnets),
        *(line for subnet in subnets for line in _prefix_lines(subnet)),
        "};",
    ]
    return "\n".join(lines) + "\n"


def _dns_lines(subnets: tuple[Subnet, ...]) -> Iterator[str]:
    """The DNS servers for instances that do not use DHCP (RFC 8106)."""
    for subnet in subnets:
        servers = [address for address in subnet.dns_nameservers if ":" in address and address != "::"]
        if subnet.ipv6_ra_mode == "slaac" and servers:
            yield f"    RDNSS {' '.join(servers[:3])} {{ }};"


def _prefix_lines(subnet: Subnet) -> list[str]:
    autonomous = "on" if subnet.ipv6_ra_mode in _AUTONOMOUS else "off"
    return [
        f"    prefix {subnet.cidr}",
        "    {",
        "        AdvOnLink on;",
        f"        AdvAutonomous {autonomous};",
        "    };",
    ]
