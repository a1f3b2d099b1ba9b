"""Instance values from the rows of servers and ports. The number of queries does not depend on the number of instances.

NICs are built from ports as Nova builds its network_info from Neutron's responses.
"""

from __future__ import annotations

from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from sys import intern
from typing import Any, NamedTuple

import structlog

from openimds.resources.instance import (
    EC2_IMAGE,
    EC2_INSTANCE,
    BlockDevice,
    Ec2Ids,
    InjectedFile,
    Instance,
    InstanceKey,
    Nic,
    NicAddress,
    NicSubnet,
    TaggedDevice,
    ec2_text,
)
from openimds.resources.network import DEVICE_ID_CHARS, HostRoute
from openimds.store.nova_objects import nics_from_network_info
from openimds.store.raw.database import Transaction
from openimds.store.raw.statements import Query, json_value, shared

VIF_TYPE = "bridge"
"""Agents plug every port into a Linux bridge."""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """The NICs of a server, and the security groups of its ports."""

    nics: tuple[Nic, ...]
    security_groups: tuple[str, ...]
    """Names in the order of the ports, each once."""


class _Address(NamedTuple):
    """A fixed IP with its port, network and subnet. A port without fixed IPs has one row without address and subnet."""

    server_id: str
    created_at: datetime | str
    port_id: str
    mac_address: str
    network_id: str
    security_group_ids: str
    mtu: int | None
    position: int | None
    ip_address: str | None
    subnet_id: str | None
    ip_version: int
    cidr: str
    gateway_ip: str | None
    dns_nameservers: str
    host_routes: str
    enable_dhcp: bool
    ipv6_address_mode: str | None


_ADDRESSES = Query(
    (
        "p.attached_id", "p.created_at", "p.id", "p.mac_address", "p.network_id", "p.security_group_ids", "n.mtu",
        "a.position", "a.ip_address", "s.id", "s.ip_version", "s.cidr", "s.gateway_ip", "s.dns_nameservers",
        "s.host_routes", "s.enable_dhcp", "s.ipv6_address_mode",
    ),
    "ports p LEFT JOIN networks n ON n.id = p.network_id LEFT JOIN ip_allocations a ON a.port_id = p.id"
    " LEFT JOIN subnets s ON s.id = a.subnet_id"
    " WHERE p.attached_id IN :server_ids AND SUBSTR(p.attached_owner, 1, 8) = 'compute:'",
)  # fmt: skip
_SERVED = Query(
    ("a.subnet_id",),
    "ports p JOIN ip_allocations a ON a.port_id = p.id"
    # The literal condition of the partial index ix_dhcp_ports.
    " WHERE p.attached_owner = 'network:dhcp' AND p.network_id IN :network_ids",
)
_FLOATING = Query(
    ("port_id", "fixed_ip_address", "created_at", "id", "floating_ip_address"),
    "floating_ips WHERE port_id IN :port_ids",
)
_GROUPS = Query(("id", "name"), "security_groups WHERE id IN :group_ids")


@dataclass(frozen=True, slots=True)
class _Related:
    """Data of NICs that is not in the rows of their ports."""

    with_dhcp_server: frozenset[str]
    """Ids of subnets on which a DHCP port has an address."""
    floating: Mapping[tuple[str, str | None], Sequence[str]]
    """(port id, fixed address) → floating addresses."""
    group_names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Port:
    about: _Address
    addresses: Sequence[_Address]
    group_ids: Sequence[str]


def network_info_of(transaction: Transaction, orders: Mapping[str, Sequence[str]]) -> dict[str, NetworkInfo]:
    """The network info by server id, without servers that have no ports.

    `orders` has, by server id, the port ids in the order of the NICs. Ports that are missing there come last.
    """
    ports = _ports(transaction, orders)
    if not ports:
        return {}
    around = _surroundings(transaction, [port for owned in ports.values() for port in owned])
    return {
        server_id: NetworkInfo(tuple(_nic(port, around) for port in owned), _group_names(owned, around))
        for server_id, owned in ports.items()
    }


def _ports(transaction: Transaction, orders: Mapping[str, Sequence[str]]) -> dict[str, list[_Port]]:
    rows: defaultdict[str, list[_Address]] = defaultdict(list)
    for row in transaction.rows(_ADDRESSES, server_ids=list(orders)):
        address = _Address._make(row)
        rows[address.port_id].append(address)
    found: defaultdict[str, list[_Port]] = defaultdict(list)
    for addresses in rows.values():
        about = addresses[0]
        given = sorted((one for one in addresses if one.ip_address is not None), key=lambda one: one.position or 0)
        found[about.server_id].append(_Port(about, given, json_value(about.security_group_ids) or ()))
    for server_id, owned in found.items():
        places = {port_id: place for place, port_id in enumerate(orders[server_id])}
        owned.sort(key=lambda port: (places.get(port.about.port_id, len(places)), *_age(port.about)))
    return found


def _age(about: _Address) -> tuple[Any, str]:
    return about.created_at, about.port_id


def _surroundings(transaction: Transaction, ports: Sequence[_Port]) -> _Related:
    groups = {group for port in ports for group in port.group_ids}
    networks = {port.about.network_id for port in ports}
    return _Related(
        with_dhcp_server=frozenset(row[0] for row in transaction.rows(_SERVED, network_ids=list(networks))),
        floating=_floating(transaction, [port.about.port_id for port in ports]),
        group_names=dict(transaction.rows(_GROUPS, group_ids=list(groups))) if groups else {},
    )


def _floating(transaction: Transaction, port_ids: list[str]) -> dict[tuple[str, str | None], list[str]]:
    found: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    rows = transaction.rows(_FLOATING, port_ids=port_ids)
    for port_id, fixed, _created_at, _id, address in sorted(rows, key=lambda row: (row[2], row[3])):
        found[port_id, fixed].append(address)
    return found


def _group_names(ports: Iterable[_Port], around: _Related) -> tuple[str, ...]:
    ids = [group for port in ports for group in port.group_ids]
    return tuple(dict.fromkeys(around.group_names[group] for group in ids if group in around.group_names))


def _nic(port: _Port, around: _Related) -> Nic:
    of_subnet: dict[str, list[_Address]] = {}
    for address in port.addresses:
        if address.subnet_id is not None:
            of_subnet.setdefault(address.subnet_id, []).append(address)
    about = port.about
    return Nic(
        port_id=about.port_id,
        mac_address=about.mac_address,
        vif_type=VIF_TYPE,
        device_name=f"tap{about.port_id[:DEVICE_ID_CHARS]}",
        network_id=intern(about.network_id),
        mtu=about.mtu,
        subnets=tuple(_nic_subnet(addresses, around) for addresses in of_subnet.values()),
    )


def _nic_subnet(addresses: Sequence[_Address], around: _Related) -> NicSubnet:
    subnet = addresses[0]
    return NicSubnet(
        ip_version=subnet.ip_version,
        cidr=intern(subnet.cidr),
        gateway_ip=shared(subnet.gateway_ip),
        addresses=tuple(_nic_address(one, around) for one in addresses),
        dns_nameservers=tuple(map(intern, json_value(subnet.dns_nameservers) or ())),
        host_routes=tuple(
            HostRoute(intern(route["destination"]), intern(route["nexthop"]))
            for route in json_value(subnet.host_routes) or ()
        ),
        enable_dhcp=bool(subnet.enable_dhcp),
        has_dhcp_server=subnet.subnet_id in around.with_dhcp_server,
        ipv6_address_mode=shared(subnet.ipv6_address_mode),
    )


def _nic_address(one: _Address, around: _Related) -> NicAddress:
    fixed = str(one.ip_address)
    return NicAddress(fixed, tuple(around.floating.get((one.port_id, fixed), ())))


log = structlog.get_logger(__name__)


class _Server(NamedTuple):
    """A row of `servers` with the password and the EC2 numbers. JSON columns are text. Bytes are in hexadecimal."""

    id: str
    project_id: str
    name: str
    hostname: str
    flavor: str
    image_id: str | None
    launch_index: int
    launched_at: str | None
    availability_zone: str | None
    reservation_id: str | None
    key_name: str | None
    key_type: str | None
    public_key: str | None
    user_data: str | None
    metadata: str
    personality: str
    security_groups: str
    root_device_name: str | None
    kernel_id: str | None
    ramdisk_id: str | None
    block_devices: str
    devices: str
    dedicated_cpus: str
    nic_order: str
    nic_tags: str
    imported_document: str | None
    password: str | None
    number: int | None
    image_number: int | None
    kernel_number: int | None
    ramdisk_number: int | None


_SERVERS = Query(
    (
        "s.id", "s.project_id", "s.name", "s.hostname", "s.flavor", "s.image_id", "s.launch_index",
        "CAST(s.launched_at AS TEXT)",
        "s.availability_zone", "s.reservation_id", "s.key_name", "s.key_type", "s.public_key",
        "CASE WHEN s.user_data IS NOT NULL THEN HEX(s.user_data) END", "s.metadata", "s.personality",
        "s.security_groups", "s.root_device_name", "s.kernel_id", "s.ramdisk_id", "s.block_devices", "s.devices",
        "s.dedicated_cpus", "s.nic_order", "s.nic_tags", "s.imported_document", "w.password", "i.number", "m.number",
        "k.number", "r.number",
    ),
    "servers s LEFT JOIN server_passwords w ON w.server_id = s.id"
    f" LEFT JOIN ec2_ids i ON i.kind = '{EC2_INSTANCE}' AND i.object_id = s.id"
    f" LEFT JOIN ec2_ids m ON m.kind = '{EC2_IMAGE}' AND m.object_id = s.image_id"
    f" LEFT JOIN ec2_ids k ON k.kind = '{EC2_IMAGE}' AND k.object_id = s.kernel_id"
    f" LEFT JOIN ec2_ids r ON r.kind = '{EC2_IMAGE}' AND r.object_id = s.ramdisk_id"
    " WHERE s.id IN :ids",
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """The result of a read of instances."""

    instances: dict[str, Instance] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(kind, uuid) of the objects that still need an EC2 number."""
    unreadable: set[str] = field(default_factory=set)
    """Ids of servers with malformed rows."""


def instances_of(transaction: Transaction, ids: Iterable[str]) -> Found:
    """Reads the instances with these ids.

    An imported server has the network of its document until the store has ports of the server.
    """
    servers = [_Server._make(row) for row in transaction.rows(_SERVERS, ids=sorted(set(ids)))]
    plugged = (
        network_info_of(transaction, {row.id: json_value(row.nic_order) or () for row in servers}) if servers else {}
    )
    found = Found()
    for server in servers:
        try:
            found.instances[server.id] = _instance(server, plugged.get(server.id), found.missing)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            log.warning("instance rows unreadable", instance_id=server.id, reason=type(error).__name__)
            found.unreadable.add(server.id)
    return found


def _seconds(stored: str | None) -> float | None:
    """Seconds since the epoch of `2026-11-21 23:19:57.612317`, which is UTC."""
    return datetime.fromisoformat(stored).replace(tzinfo=UTC).timestamp() if stored else None


def _instance(server: _Server, plugged: NetworkInfo | None, missing: list[tuple[str, str]]) -> Instance:
    imported: Mapping[str, Any] = json_value(server.imported_document or "null") or {}
    given_groups = tuple(intern(str(group.get("name"))) for group in json_value(server.security_groups) or ())
    devices: list[Mapping[str, Any]] = json_value(server.devices) or []
    nics = plugged.nics if plugged else nics_from_network_info(imported.get("network_info") or ())
    return Instance(
        id=server.id,
        project_id=intern(server.project_id),
        name=server.name,
        hostname=server.hostname,
        ec2_ids=_ec2_ids(server, imported, missing),
        flavor_name=intern(str(json_value(server.flavor).get("name", ""))),
        image_id=shared(server.image_id),
        launch_index=server.launch_index,
        launched_at=_seconds(server.launched_at),
        availability_zone=shared(server.availability_zone),
        reservation_id=server.reservation_id,
        key=_key(server),
        user_data=None if server.user_data is None else bytes.fromhex(server.user_data),
        metadata={intern(name): value for name, value in (json_value(server.metadata) or {}).items()},
        files=tuple(
            InjectedFile(file["path"], b64decode(file.get("contents") or ""))
            for file in json_value(server.personality) or ()
        ),
        security_groups=plugged.security_groups if plugged else given_groups,
        nics=nics,
        root_device_name=shared(server.root_device_name),
        default_ephemeral_device=imported.get("default_ephemeral_device"),
        default_swap_device=imported.get("default_swap_device"),
        block_devices=tuple(_block_device(mapping) for mapping in json_value(server.block_devices) or ()),
        devices=(*_devices(devices), *_tagged_nics(json_value(server.nic_tags) or {}, devices, nics)),
        dedicated_cpus=tuple(json_value(server.dedicated_cpus) or ()),
        boot_roles=imported.get("boot_roles") or "",
        password=server.password,
    )


def _key(server: _Server) -> InstanceKey | None:
    if not server.key_name:
        return None
    return InstanceKey(intern(server.key_name), intern(server.key_type or "ssh"), shared(server.public_key))


def _ec2_ids(server: _Server, imported: Mapping[str, Any], missing: list[tuple[str, str]]) -> Ec2Ids:
    given = imported.get("ec2_ids")
    if given is not None:
        return Ec2Ids(**given)

    def text(prefix: str, object_id: str | None, number: int | None) -> str | None:
        if object_id and number is None:
            missing.append((EC2_INSTANCE if prefix == "i" else EC2_IMAGE, object_id))
        return ec2_text(prefix, number or 0) if object_id else None

    return Ec2Ids(
        instance_id=text("i", server.id, server.number),
        ami_id=text("ami", server.image_id, server.image_number),
        kernel_id=text("aki", server.kernel_id, server.kernel_number),
        ramdisk_id=text("ari", server.ramdisk_id, server.ramdisk_number),
    )


def _block_device(mapping: Mapping[str, Any]) -> BlockDevice:
    return BlockDevice(
        source_type=shared(mapping.get("source_type")),
        destination_type=shared(mapping.get("destination_type")),
        device_name=shared(mapping.get("device_name")),
        guest_format=shared(mapping.get("guest_format")),
    )


def _devices(devices: Iterable[Mapping[str, Any]]) -> Iterable[TaggedDevice]:
    for device in devices:
        tags = device.get("tags")
        yield TaggedDevice(
            type=device["type"],
            bus=shared(device.get("bus")),
            address=shared(device.get("address")),
            tags=None if tags is None else tuple(map(intern, tags)),
            mac_address=device.get("mac"),
            vlan=device.get("vlan"),
            vf_trusted=bool(device.get("vf_trusted")),
            serial=device.get("serial"),
            path=device.get("path"),
            share_id=device.get("share_id"),
            share_tag=device.get("share_tag"),
        )


def _tagged_nics(
    tags: Mapping[str, str], devices: Iterable[Mapping[str, Any]], nics: Iterable[Nic]
) -> Iterable[TaggedDevice]:
    """Tagged NICs that are not in `devices`. As in Nova, `bus` and `address` are `none` because they are unknown."""
    known = {device.get("mac") for device in devices}
    for nic in nics:
        if nic.port_id in tags and nic.mac_address not in known:
            yield TaggedDevice(type="nic", mac_address=nic.mac_address, tags=(tags[nic.port_id],))
