"""The command line of a network's dnsmasq. `dnsmasq_files` contains the files that it reads.

All leases are static: dnsmasq serves only the ports in its hosts file. The command line contains the interface and the
ranges, so a change of these restarts dnsmasq. The files contain the ports and the options, so a change of these needs
only a SIGHUP.
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
    """The settings of dnsmasq in `dhcp_agent.ini`."""

    dns_domain: str = "openstacklocal"
    """The DNS domain of the network. If it is empty, names are unqualified and no domain option is sent."""
    lease_seconds: int | None = 86400
    """The duration of a lease; None if leases do not expire."""
    lease_max: int = 2**24
    """The maximum number of leases of a network, also for an instance that requests leases with many client ids."""
    dns_forwarders: tuple[str, ...] = ()
    """`dnsmasq_dns_servers`: the DNS servers that dnsmasq forwards queries to."""
    broadcast_reply: bool = False
    user: str | None = None
    """The user that dnsmasq switches to. None if dnsmasq uses its default user."""
    user_id: int | None = None
    """The user id of `user`, which the files belong to that dnsmasq reads again. None if all users may read them."""
    use_host_resolvers: bool = False
    """`dnsmasq_local_resolv`: whether dnsmasq forwards queries to the host's own DNS servers."""
    extra_config_file: Path | None = None
    """`dnsmasq_config_file`: an additional configuration file of the operator."""


@dataclass(frozen=True, slots=True)
class DnsmasqPaths:
    """The files in `<state_path>/dhcp/<network id>/`, with the same names as neutron's."""

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
    """The dnsmasq daemon of a network."""
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
        # Leases are keyed by MAC, because initramfs, installer and system of one instance send different client ids.
        "--dhcp-ignore-clid",
        f"--dhcp-option-force=option:mtu,{dhcp.network.mtu}",
        *_ranges(dhcp, settings),
        *_advertisements(dhcp),
        *_optional_arguments(settings),
    )
    return Daemon(name="dnsmasq", argv=argv, pid_file=paths.pid, namespace=namespace)


def hands_out_addresses(subnet: Subnet) -> bool:
    """Whether instances of the subnet get their address by DHCP, and not from a router advertisement."""
    return subnet.ip_version == 4 or subnet.ipv6_address_mode == _STATEFUL or _no_modes(subnet)


def answers_dhcp(subnet: Subnet) -> bool:
    """Whether dnsmasq responds on the subnet. Stateless DHCPv6 provides options without addresses."""
    return hands_out_addresses(subnet) or subnet.ipv6_address_mode == _STATELESS


def advertises(dhcp: DhcpNetwork) -> bool:
    """Whether dnsmasq sends the router advertisements of a network, because no router of this cloud does.

    Each IPv6 subnet must have an `ipv6_ra_mode`. A subnet without it has a router outside of this cloud.
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
    """The options for advertisements with prefixes and a router lifetime of 0, since the namespace forwards nothing."""
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
    """The modes for SLAAC, and for SLAAC with options by stateless DHCPv6 (RFC 4861)."""
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
