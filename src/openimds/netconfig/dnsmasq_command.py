"""dnsmasq of a network: which program to run. What it reads is in `dnsmasq_files`.

Leases are static: dnsmasq serves only the ports that its host file names. Where it listens and what ranges it has is on
the command line (a change restarts it); who is served and with which options is in files (a change is a SIGHUP).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from openimds.netconfig.dhcp_network import DhcpNetwork
from openimds.netconfig.metadata_path import is_router_interface
from openimds.netconfig.namespace_state import Daemon
from openimds.resources.network import Subnet

_STATEFUL = "dhcpv6-stateful"
_STATELESS = "dhcpv6-stateless"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsmasqSettings:
    """What `dhcp_agent.ini` says of dnsmasq."""

    dns_domain: str = "openstacklocal"
    """Empty: no domain is handed out, and names stand alone."""
    lease_seconds: int | None = 86400
    """None: leases never end."""
    lease_max: int = 2**24
    """At most so many leases a network: the bound of a guest that asks under ever new names."""
    dns_forwarders: tuple[str, ...] = ()
    """`dnsmasq_dns_servers`: whom dnsmasq asks for names it does not know."""
    broadcast_reply: bool = False
    user: str | None = None
    """Whom dnsmasq becomes; None: its own default."""
    use_host_resolvers: bool = False
    """`dnsmasq_local_resolv`: it asks this machine's own DNS servers."""
    extra_config_file: Path | None = None
    """`dnsmasq_config_file`: read by dnsmasq beside all this."""


@dataclass(frozen=True, slots=True)
class DnsmasqPaths:
    """`<state_path>/dhcp/<network id>/…`, with the names that neutron's users know."""

    folder: Path

    @classmethod
    def of(cls, state_path: Path, network_id: str) -> DnsmasqPaths:
        return cls(state_path / "dhcp" / network_id)

    @property
    def hosts(self) -> Path:
        return self.folder / "host"

    @property
    def names(self) -> Path:
        return self.folder / "addn_hosts"

    @property
    def options(self) -> Path:
        return self.folder / "opts"

    @property
    def leases(self) -> Path:
        return self.folder / "leases"

    @property
    def pid(self) -> Path:
        return self.folder / "pid"

    @property
    def interface(self) -> Path:
        return self.folder / "interface"


def dnsmasq(dhcp: DhcpNetwork, paths: DnsmasqPaths, settings: DnsmasqSettings, namespace: str) -> Daemon:
    """The dnsmasq of a network."""
    argv = (
        "dnsmasq",
        "--no-hosts",
        *([] if settings.use_host_resolvers else ["--no-resolv"]),
        f"--pid-file={paths.pid}",
        f"--dhcp-hostsfile={paths.hosts}",
        f"--addn-hosts={paths.names}",
        f"--dhcp-optsfile={paths.options}",
        f"--dhcp-leasefile={paths.leases}",
        f"--conf-file={settings.extra_config_file or ''}",
        "--bind-dynamic",
        f"--interface={dhcp.device_name}",
        "--except-interface=lo",
        "--local-service",
        "--no-negcache",
        "--no-ping",
        "--dhcp-authoritative",
        # A port is its MAC: a guest whose initramfs, installer and system each invent a client id keeps one lease.
        "--dhcp-ignore-clid",
        f"--dhcp-option-force=option:mtu,{dhcp.network.mtu}",
        *_ranges(dhcp, settings),
        *_advertisements(dhcp),
        *_optional_arguments(settings),
    )
    return Daemon(name="dnsmasq", argv=argv, pid_file=paths.pid, namespace=namespace)


def hands_out_addresses(subnet: Subnet) -> bool:
    """Whether a guest of the subnet gets its address by DHCP (and not from a router's advertisement)."""
    return subnet.ip_version == 4 or subnet.ipv6_address_mode == _STATEFUL or _no_modes(subnet)


def answers_dhcp(subnet: Subnet) -> bool:
    """Whether dnsmasq answers on the subnet at all: stateless DHCPv6 hands out options without addresses."""
    return hands_out_addresses(subnet) or subnet.ipv6_address_mode == _STATELESS


def advertises(dhcp: DhcpNetwork) -> bool:
    """Whether dnsmasq sends the network's router advertisements: they are wanted (`ipv6_ra_mode`), and there is no
    router to send them. A subnet without the mode has somebody else's router.
    """
    subnets = [subnet for subnet in dhcp.served_subnets if subnet.ip_version == 6]
    routed = any(":" in address for port in dhcp.ports if is_router_interface(port) for address in port.ip_addresses)
    return bool(subnets) and not routed and all(subnet.ipv6_ra_mode for subnet in subnets)


def subnet_tag(subnet: Subnet) -> str:
    return f"subnet-{subnet.id}"


def _no_modes(subnet: Subnet) -> bool:
    return not subnet.ipv6_address_mode and not subnet.ipv6_ra_mode


def _ranges(dhcp: DhcpNetwork, settings: DnsmasqSettings) -> tuple[str, ...]:
    with_advertisements = advertises(dhcp)
    ranges = [
        _range(subnet, settings, with_advertisements=with_advertisements)
        for subnet in dhcp.served_subnets
        if answers_dhcp(subnet) or with_advertisements
    ]
    subnets = [subnet for subnet in dhcp.served_subnets if answers_dhcp(subnet)]
    addresses = sum(ipaddress.ip_network(subnet.cidr, strict=False).num_addresses for subnet in subnets)
    return (*ranges, f"--dhcp-lease-max={min(addresses, settings.lease_max)}")


def _advertisements(dhcp: DhcpNetwork) -> tuple[str, ...]:
    """Prefixes, but no default route: the DHCP namespace forwards nothing, so the router's lifetime is 0 seconds."""
    if not advertises(dhcp):
        return ()
    modes = {subnet.ipv6_ra_mode for subnet in dhcp.served_subnets}
    managed = ("--enable-ra",) if _STATEFUL in modes else ()
    return (*managed, f"--ra-param={dhcp.device_name},mtu:{dhcp.network.mtu},0,0")


def _range(subnet: Subnet, settings: DnsmasqSettings, *, with_advertisements: bool) -> str:
    """`--dhcp-range=set:subnet-<id>,192.168.40.0,static,255.255.255.0,86400s`"""
    mode = _ipv6_modes(subnet) if with_advertisements and subnet.ip_version == 6 else "static"
    network = ipaddress.ip_network(subnet.cidr, strict=False)
    size = str(network.netmask) if network.version == 4 else str(max(network.prefixlen, 64))
    lease = "infinite" if settings.lease_seconds is None else f"{settings.lease_seconds}s"
    return f"--dhcp-range=set:{subnet_tag(subnet)},{network.network_address},{mode},{size},{lease}"


def _ipv6_modes(subnet: Subnet) -> str:
    """Whether a guest makes its address from the advertised prefix, and whether it then asks for options (RFC 4861)."""
    if subnet.ipv6_ra_mode == _STATEFUL:
        return "static"
    if subnet.ipv6_ra_mode == _STATELESS:
        return "static,ra-stateless"
    return "ra-only"


def _optional_arguments(settings: DnsmasqSettings) -> tuple[str, ...]:
    domain = (f"--domain={settings.dns_domain}",) if settings.dns_domain else ()
    forwarders = tuple(f"--server={address}" for address in settings.dns_forwarders)
    broadcast = ("--dhcp-broadcast",) if settings.broadcast_reply else ()
    user = (f"--user={settings.user}",) if settings.user else ()
    return (*domain, *forwarders, *broadcast, *user)
