"""Resources for tests: only the fields that a test is about need to be given."""

from __future__ import annotations

from typing import Any

from openimds.resources.network import DEVICE_OWNER_ROUTER_INTERFACE, FixedIP, Port, Subnet

ADDRESS = "10.0.0.5"
MAC_ADDRESS = "fa:16:3e:00:00:05"


def port(port_id: str, mac: str = MAC_ADDRESS, *addresses: str, network: str = "n1", **fields: Any) -> Port:
    """A port of the instance `vm-<port_id>`. Its only address is ADDRESS unless `addresses` are given."""
    values = {
        "project_id": "p",
        "fixed_ips": tuple(FixedIP("s", address) for address in addresses or (ADDRESS,)),
        "device_id": f"vm-{port_id}",
        "device_owner": "compute:nova",
    }
    return Port(id=port_id, network_id=network, mac_address=mac, **(values | fields))


def router_interface(port_id: str, router: str, network: str, address: str = "10.0.0.1", **fields: Any) -> Port:
    owner = {"device_id": router, "device_owner": DEVICE_OWNER_ROUTER_INTERFACE}
    return port(port_id, "fa:16:3e:ff:ff:01", address, network=network, **(owner | fields))


def subnet(subnet_id: str, cidr: str, *, network: str = "n1", **fields: Any) -> Subnet:
    values = {"project_id": "p", "ip_version": 6 if ":" in cidr else 4}
    return Subnet(id=subnet_id, network_id=network, cidr=cidr, **(values | fields))


def port_document(port_id: str, address: str = ADDRESS, **fields: Any) -> dict[str, Any]:
    """A port of the instance `vm-1` as JSON of the network API."""
    return {
        "id": port_id,
        "network_id": "net-1",
        "project_id": "tenant",
        "mac_address": MAC_ADDRESS,
        "fixed_ips": [{"subnet_id": "s", "ip_address": address}],
        "device_id": "vm-1",
        "device_owner": "compute:nova",
        **fields,
    }
