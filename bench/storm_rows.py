"""Networks, subnets, instances and ports of a storm, written in bulk into the store of a running cloud."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.compat.recordings import load_instances

from openimds.resources.instance import EC2_INSTANCE
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore
from openimds.store.models.compute import Ec2Id
from openimds.store.models.network import IPAllocation, Network, Port, SecurityGroup, Subnet, address_sort_key

NETWORKS = 200
GUESTS_PER_NETWORK = 5
GUESTS = NETWORKS * GUESTS_PER_NETWORK
SUBNET = "192.168.40.0/24"
"""The range of every network; addresses of projects overlap."""
_FIRST_NUMBER = 1_000_000


@dataclass(frozen=True, slots=True)
class Guest:
    """One of GUESTS."""

    number: int

    @property
    def network_id(self) -> str:
        return network_id(self.number // GUESTS_PER_NETWORK)

    @property
    def instance_id(self) -> str:
        return f"b50{self.number:05x}-00aa-4000-8000-00000000000a"

    @property
    def port_id(self) -> str:
        return f"b5c{self.number:05x}-00cc-4000-8000-00000000000c"

    @property
    def mac(self) -> str:
        return f"fa:16:3e:b5:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> str:
        return f"192.168.40.{10 + self.number % GUESTS_PER_NETWORK}"


def network_id(number: int) -> str:
    return f"b5{number:06x}-00bb-4000-8000-00000000000b"


def bridge(network: str) -> str:
    return f"brq{network[:11]}"


def fill(database: Path, host: str) -> None:
    """Writes the rows as they are after a boot: every guest's ports are bound to `host` and active."""
    store = Store(f"sqlite:///{database}")
    main: Mapping[str, Any] = next(entry for entry in load_instances()["instances"] if entry.get("main"))
    InstanceStore(store).import_instances({"instances": [main]})
    guests = [Guest(number) for number in range(GUESTS)]
    _copy_server(database, main["uuid"], [guest.instance_id for guest in guests])
    for table, rows in _rows(main["project_id"], guests, host):
        with store.write() as session:  # agents receive the change
            session.add_all(table(**row) for row in rows)
    store.close()


def _copy_server(database: Path, original: str, ids: Sequence[str]) -> None:
    with sqlite3.connect(database) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(servers)")]
        found = connection.execute(f"SELECT {', '.join(names)} FROM servers WHERE id = ?", (original,)).fetchone()
        place = names.index("id")
        copies = ([*found[:place], one, *found[place + 1 :]] for one in ids)
        connection.executemany(f"INSERT INTO servers VALUES ({', '.join('?' * len(names))})", copies)
        connection.execute("UPDATE servers SET imported_document = NULL, driver = 'external'")
    connection.close()


def _rows(project: str, guests: Sequence[Guest], host: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    now = datetime.now(UTC).replace(tzinfo=None)
    owned = {"project_id": project, "created_at": now, "updated_at": now}
    group = str(uuid.uuid4())
    networks = [network_id(number) for number in range(NETWORKS)]
    yield SecurityGroup, [{"id": group, "name": "default", **owned}]
    yield (
        Ec2Id,
        [{"kind": EC2_INSTANCE, "object_id": one.instance_id, "number": _FIRST_NUMBER + one.number} for one in guests],
    )
    yield Network, [{"id": one, "name": "storm", **owned} for one in networks]
    yield Subnet, [_subnet(one) | owned for one in networks]
    yield Port, [_port(guest, group, host) | owned for guest in guests]


def _subnet(network: str) -> dict[str, Any]:
    return {
        "id": _subnet_id(network),
        "network_id": network,
        "ip_version": 4,
        "cidr": SUBNET,
        "gateway_ip": "192.168.40.1",
        "allocation_pools": [{"start": "192.168.40.100", "end": "192.168.40.200"}],
    }


def _subnet_id(network: str) -> str:
    return f"{network[:-1]}d"


def _port(guest: Guest, group: str, host: str) -> dict[str, Any]:
    return {
        "id": guest.port_id,
        "network_id": guest.network_id,
        "mac_address": guest.mac,
        "attached_id": guest.instance_id,
        "attached_owner": "compute:nova",
        "security_group_ids": [group],
        "host": host,
        "status": "ACTIVE",
        "fixed_ips": [IPAllocation(**_allocation(guest))],
    }


def _allocation(guest: Guest) -> dict[str, Any]:
    return {
        "ip_address": guest.address,
        "subnet_id": _subnet_id(guest.network_id),
        "network_id": guest.network_id,
        "sort_key": address_sort_key(guest.address),
    }
