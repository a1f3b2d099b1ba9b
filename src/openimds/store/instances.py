"""What the metadata API asks of the store: instances as their documents tell of them, and the one thing guests write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import NotFound
from openimds.resources.instance import Instance
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX
from openimds.store.changes import newest_revision
from openimds.store.chunks import rows_of
from openimds.store.ec2_ids import assign_ec2_number
from openimds.store.engine import Store
from openimds.store.instance_import import import_server, instances_in
from openimds.store.instance_rows import instances_of
from openimds.store.models import IPAllocation, Port, Server, ServerPassword, Subnet

PROVIDER_TAG = "metadata-provider="
"""A subnet with the tag `metadata-provider=lb-1` is served by the metadata provider `lb-1`. Neutron's plug-ins with
such providers keep this as `advanced_service_providers` of the subnet."""


class _UndoneError(Exception):
    """Nothing is wrong: a dry run ends like this."""


@dataclass(frozen=True, slots=True)
class AskingPort:
    """The port that an address belongs to, as far as it says who asks."""

    instance_id: str
    project_id: str


class InstanceStore:
    """Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def revision(self) -> int:
        """The newest committed revision: what was read at it is still true as long as it stays."""
        return self._store.revision()

    def instance(self, instance_id: str) -> Instance | None:
        """The instance, None when there is none of this id. Gives it its EC2 ids at the first time."""
        return self.instances([instance_id])[1][instance_id]

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]:
        """(the revision at which they were read, by id: None for those that are not there), in few queries."""
        with self._store.read() as session:
            revision = newest_revision(session)
            servers = list(rows_of(session, sa.select(Server), Server.id, instance_ids))
            found, missing = instances_of(session, servers)
        if not missing:
            return revision, {instance_id: found.get(instance_id) for instance_id in instance_ids}
        with self._store.write() as session:
            for kind, object_id in missing:
                assign_ec2_number(session, kind, object_id)
        return self.instances(instance_ids)

    def instance_ids_by_address(self, address: str) -> tuple[str, ...]:
        """Every instance that has this fixed IP on some network: more than one is nobody's identity."""
        with self._store.read() as session:
            ports = session.scalars(_ports_with(address)).all()
            imported = [port.instance_id for port in _imported_ports(session, address, None)]
        return tuple(dict.fromkeys([*(port.device_id for port in ports), *imported]))

    def ports_by_provider(self, provider_id: str, address: str) -> tuple[AskingPort, ...] | None:
        """The ports with this address on the networks that the provider serves; None when it serves none."""
        with self._store.read() as session:
            subnets = session.scalars(sa.select(Subnet).where(Subnet.tags.is_not(None)))
            networks = {subnet.network_id for subnet in subnets if f"{PROVIDER_TAG}{provider_id}" in subnet.tags}
            if not networks:
                return None
            ports = session.scalars(_ports_with(address).where(Port.network_id.in_(networks)))
            asking = [AskingPort(port.device_id, port.project_id) for port in ports]
            return (*asking, *_imported_ports(session, address, networks))

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """Store the password unless there is one; False when another was first. An empty text stores nothing, since it
        reads as `not set`. Raises NotFound.
        """
        with self._store.write() as session:
            if session.get(Server, instance_id) is None:
                raise NotFound(f"there is no instance {instance_id} to store a password of")
            if session.get(ServerPassword, instance_id) is not None:
                return False
            if text:
                session.add(ServerPassword(server_id=instance_id, password=text))
            return True

    def import_instances(self, document: Mapping[str, Any], *, dry_run: bool = False) -> tuple[str, ...]:
        """Make or replace the instances of `{"instances": […]}` and return their ids; all of them or none.

        The form is that of docs/guide/import.md, or nova's own (instance_import.py). `dry_run`: all is done and then
        undone. Raises BadRequest naming the field, Conflict.
        """
        imported: list[str] = []
        with suppress(_UndoneError), self._store.write() as session:
            imported.extend(import_server(session, fields) for fields in instances_in(document))
            if dry_run:
                session.flush()
                raise _UndoneError
        return tuple(imported)


def _ports_with(address: str) -> sa.Select[Any]:
    return (
        sa.select(Port)
        .join(IPAllocation, IPAllocation.port_id == Port.id)
        .where(IPAllocation.ip_address == address, Port.device_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX))
        .order_by(Port.id)
    )


def _imported_ports(session: Session, address: str, networks: set[str] | None) -> Iterator[AskingPort]:
    """Ports of instances that came with their network: they have no rows of their own."""
    for server in session.scalars(sa.select(Server).where(Server.imported_document.is_not(sa.null()))):
        for port in (server.imported_document or {}).get("neutron_ports") or ():
            on_network = networks is None or port["network_id"] in networks
            if on_network and any(fixed["ip_address"] == address for fixed in port["fixed_ips"]):
                yield AskingPort(server.id, server.project_id)
