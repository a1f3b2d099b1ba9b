"""Decoders of Nova's own data: the network_info cache, and versioned objects as JSON.

A versioned object is {"nova_object.name": …, "nova_object.data": {…}}. Fields that were never set are missing in its data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from sys import intern
from typing import Any

from openimds.resources.instance import Nic, NicAddress, NicSubnet
from openimds.resources.network import HostRoute
from openimds.store.raw.statements import shared

Json = Mapping[str, Any]

_BUSES = {
    "PCIDeviceBus": "pci",
    "USBDeviceBus": "usb",
    "SCSIDeviceBus": "scsi",
    "IDEDeviceBus": "ide",
    "XenDeviceBus": "xen",
}
_DEVICE_TYPES = {"NetworkInterfaceMetadata": "nic", "DiskMetadata": "disk", "ShareMetadata": "share"}
_SHARE_FIELDS = {"share_id": "share_id", "tag": "share_tag"}
_DEVICE_FIELDS = ("mac", "vlan", "vf_trusted", "serial", "path", "tags")


def nics_from_network_info(network_info: Iterable[Json]) -> tuple[Nic, ...]:
    """The NICs of Nova's cache, in its order."""
    return tuple(_nic(vif) for vif in network_info)


def devices_from_metadata(device_metadata: Json | None) -> list[dict[str, Any]]:
    """The column `devices` of an InstanceDeviceMetadata. Devices of unknown kinds or buses are left out."""
    devices = [_device(device) for device in _data(device_metadata).get("devices", ())]
    return [device for device in devices if device is not None]


def dedicated_cpus_from_topology(numa_topology: Json | None) -> list[int]:
    """The pinned CPUs of all cells of an InstanceNUMATopology."""
    cells = [_data(cell) for cell in _data(numa_topology).get("cells", ())]
    return sorted(cpu for cell in cells for cpu in cell.get("pcpuset") or ())


def _data(versioned: Json | None) -> Json:
    data: Json = (versioned or {}).get("nova_object.data", {})
    return data


def _device(versioned: Json) -> dict[str, Any] | None:
    data = _data(versioned)
    kind = _DEVICE_TYPES.get(versioned.get("nova_object.name", ""))
    if kind is None:
        return None
    device: dict[str, Any] = {"type": kind}
    if "bus" in data:
        bus = _BUSES.get(data["bus"].get("nova_object.name", ""))
        if bus is None:
            return None
        device |= {"bus": bus, "address": _data(data["bus"]).get("address")}
    if kind == "share":
        return device | {ours: data.get(nova) for nova, ours in _SHARE_FIELDS.items()}
    return device | {field: data[field] for field in _DEVICE_FIELDS if field in data}


def _nic(vif: Json) -> Nic:
    network: Json = vif.get("network") or {}
    meta: Json = network.get("meta") or {}
    return Nic(
        port_id=vif["id"],
        mac_address=vif.get("address"),
        vif_type=shared(vif.get("type")),
        device_name=vif.get("devname"),
        network_id=intern(network.get("id", "")),
        mtu=meta.get("mtu"),
        injected=bool(meta.get("injected")),
        subnets=tuple(_subnet(subnet) for subnet in network.get("subnets") or ()),
    )


def _subnet(subnet: Json) -> NicSubnet:
    meta: Json = subnet.get("meta") or {}
    return NicSubnet(
        ip_version=subnet.get("version") or ip_network(subnet["cidr"], strict=False).version,
        cidr=intern(subnet["cidr"]),
        gateway_ip=shared((subnet.get("gateway") or {}).get("address")),
        addresses=tuple(_address(ip) for ip in subnet.get("ips") or ()),
        dns_nameservers=tuple(intern(dns["address"]) for dns in subnet.get("dns") or ()),
        host_routes=tuple(
            HostRoute(intern(route["cidr"]), intern(route["gateway"]["address"]))
            for route in subnet.get("routes") or ()
        ),
        enable_dhcp=bool(meta.get("enable_dhcp")),
        has_dhcp_server=meta.get("dhcp_server") is not None,
        ipv6_address_mode=shared(meta.get("ipv6_address_mode")),
    )


def _address(ip: Json) -> NicAddress:
    ip_address(ip["address"])  # raises ValueError for a malformed address
    return NicAddress(ip["address"], tuple(floating["address"] for floating in ip.get("floating_ips") or ()))
