"""Instances with networks in the store, as rows of the control API instead of imported ones."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

import sqlalchemy as sa

from openimds.resources.instance import EC2_INSTANCE
from openimds.store.engine import Store
from openimds.store.models.compute import Ec2Id, Server
from openimds.store.models.network import IPAllocation, Network, Port, SecurityGroup, Subnet, address_sort_key

_FIRST_NUMBER = 1_000_000
_FIRST_ADDRESS = int(ip_address("10.0.0.10"))


def give_ports(store: Store, project: str, ids: Sequence[str]) -> None:
    """Gives each instance a port on one network (IPv4 and IPv6) with a security group, and an EC2 id. The image has one."""
    times = {"created_at": datetime.now(UTC).replace(tzinfo=None), "updated_at": datetime.now(UTC).replace(tzinfo=None)}
    network, group, four, six = (str(uuid.uuid4()) for _ in range(4))
    owned = {"project_id": project, **times}
    subnet = {"network_id": network, "allocation_pools": [], "dns_nameservers": ["10.0.0.2"], **owned}
    subnets = (
        {"id": four, "ip_version": 4, "cidr": "10.0.0.0/8", "gateway_ip": "10.0.0.1", **subnet},
        {"id": six, "ip_version": 6, "cidr": "fd00::/64", "gateway_ip": "fd00::1", **subnet},
    )
    with store.engine.begin() as connection:
        connection.execute(sa.insert(Network), {"id": network, **owned})
        connection.execute(sa.insert(SecurityGroup), {"id": group, "name": "default", **owned})
        connection.execute(sa.insert(Subnet), list(subnets))
        connection.execute(sa.update(Server).where(Server.id.in_(ids)).values(imported_document=None))
        numbers = [
            {"kind": EC2_INSTANCE, "object_id": one, "number": _FIRST_NUMBER + place} for place, one in enumerate(ids)
        ]
        connection.execute(sa.insert(Ec2Id), numbers)
        for place, instance_id in enumerate(ids):
            port = str(uuid.uuid4())
            mac = f"fa:16:3e:{place >> 16:02x}:{place >> 8 & 255:02x}:{place & 255:02x}"
            row = {"id": port, "network_id": network, "mac_address": mac, "security_group_ids": [group], **owned}
            connection.execute(sa.insert(Port), {"attached_id": instance_id, "attached_owner": "compute:nova", **row})
            addresses = ((four, str(ip_address(_FIRST_ADDRESS + place))), (six, f"fd00::{place + 16:x}"))
            rows = [
                {"port_id": port, "subnet_id": one, "network_id": network, "ip_address": address, "position": order}
                | {"sort_key": address_sort_key(address)}
                for order, (one, address) in enumerate(addresses)
            ]
            connection.execute(sa.insert(IPAllocation), rows)
