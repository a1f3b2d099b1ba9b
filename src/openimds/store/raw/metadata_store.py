"""What the metadata API asks of the store: instances as their documents tell of them, and the one thing guests write."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.resources.instance import Instance
from openimds.store.raw.database import Database, Transaction
from openimds.store.raw.instances import instances_of
from openimds.store.raw.statements import Query, json_value

PROVIDER_TAG = "metadata-provider="
"""A subnet with the tag `metadata-provider=lb-1` is served by the metadata provider `lb-1`. Neutron's plug-ins with
such providers keep this as `advanced_service_providers` of the subnet. Only administrators and services change it."""

AT_ONCE = 250
"""So many instances one read is of: with their user data, which may be 64 KiB, they are in memory several times."""

_PORTS = Query(
    ("p.id", "p.attached_id", "p.project_id", "p.network_id"),
    "ip_allocations a JOIN ports p ON p.id = a.port_id"
    " WHERE a.ip_address = :address AND SUBSTR(p.attached_owner, 1, 8) = 'compute:'",
)
_HOLDERS = Query(
    ("p.id", "p.attached_id", "p.network_id"),
    "ip_allocations a JOIN ports p ON p.id = a.port_id LEFT JOIN servers v ON v.id = p.attached_id"
    " WHERE a.ip_address = :address AND SUBSTR(p.attached_owner, 1, 8) = 'compute:'"
    " AND (v.id IS NULL OR v.project_id = p.project_id)",
)
_OPERATORS_SUBNETS = Query(
    ("s.network_id", "s.cidr"),
    "subnets s JOIN networks n ON n.id = s.network_id"
    " WHERE s.ip_version = :version AND (n.shared OR n.external OR n.provider_network_type <> 'local')",
)
_IMPORTED = Query(
    ("id", "project_id", "imported_document"),
    # Only a first sieve: the address may be in it as something else.
    "servers WHERE CAST(imported_document AS TEXT) LIKE :like",
)
_TAGS = Query(("network_id", "tags"), "subnets WHERE CAST(tags AS TEXT) LIKE :like")
_IS_SERVER = Query(("1",), "servers WHERE id = :id")
_HAS_PASSWORD = Query(("1",), "server_passwords WHERE server_id = :id")


@dataclass(frozen=True, slots=True)
class PortIdentity:
    """The port that an address belongs to, as far as it says who asks."""

    instance_id: str
    project_id: str


class MetadataStore:
    """Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def revision(self) -> int:
        """The newest committed revision: what was read at it is still true as long as it stays."""
        return self._database.revision()

    def instance(self, instance_id: str) -> Instance | None:
        """The instance, None when there is none of this id. Gives it its EC2 ids at the first time.

        Raises StoreUnavailable if its rows cannot be read.
        """
        found = self.instances([instance_id])[1]
        if instance_id not in found:
            raise StoreUnavailable(f"the rows of instance {instance_id} cannot be read; the log has the reason")
        return found[instance_id]

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]:
        """(the revision at which they were read, by id: None for those that are not there), in few queries.

        An instance whose rows cannot be read is left out.
        """
        ids = list(instance_ids)
        found: dict[str, Instance] = {}
        missing: list[tuple[str, str]] = []
        unreadable: set[str] = set()
        with self._database.read() as transaction:
            revision = transaction.revision()
            for start in range(0, len(ids), AT_ONCE):
                some = instances_of(transaction, ids[start : start + AT_ONCE])
                found |= some.instances
                missing += some.missing
                unreadable |= some.unreadable
        if not missing:
            return revision, {one: found.get(one) for one in ids if one not in unreadable}
        with self._database.write() as transaction:
            for kind, object_id in missing:
                _assign_ec2_number(transaction, kind, object_id)
        return self.instances(ids)

    def instance_ids_by_address(self, address: str) -> tuple[str, ...]:
        """Every instance that has this fixed IP on some network: more than one identifies none of them.

        Members choose the addresses on their own networks. If an operator's network contains the address, only ports on
        operators' networks count. A port of another project than its instance's never counts.
        """
        with self._database.read() as transaction:
            networks = _operators_networks(transaction, address)
            ports = sorted(transaction.rows(_HOLDERS, address=address))
            held = [server_id for _id, server_id, network in ports if networks is None or network in networks]
            imported = [port.instance_id for port in _imported_ports(transaction, address, networks)]
        return tuple(dict.fromkeys([*held, *imported]))

    def ports_by_provider(self, provider_id: str, address: str) -> tuple[PortIdentity, ...] | None:
        """The ports with this address on the networks that the provider serves; None when it serves none."""
        tag = f"{PROVIDER_TAG}{provider_id}"
        with self._database.read() as transaction:
            subnets = transaction.rows(_TAGS, like=f"%{PROVIDER_TAG}%")
            networks = {network_id for network_id, tags in subnets if tag in (json_value(tags) or ())}
            if not networks:
                return None
            ports = sorted(transaction.rows(_PORTS, address=address))
            asking = [PortIdentity(server, project) for _id, server, project, network in ports if network in networks]
            return (*asking, *_imported_ports(transaction, address, networks))

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """Store the password unless there is one; False when another was first. An empty text stores nothing, since it
        reads as `not set`. Raises NotFound.
        """
        with self._database.write() as transaction:
            revision = transaction.revision() + 1
            if not transaction.rows(_IS_SERVER, id=instance_id):
                raise NotFound(f"there is no instance {instance_id} to store a password of")
            if transaction.rows(_HAS_PASSWORD, id=instance_id):
                return False
            if text:
                transaction.run(
                    "INSERT INTO server_passwords (server_id, password) VALUES (:id, :text)", id=instance_id, text=text
                )
                _note_server_changed(transaction, instance_id, revision)
            return True


def _note_server_changed(transaction: Transaction, instance_id: str, revision: int) -> None:
    """What ChangeRecorder does for mapped objects."""
    now = datetime.now(UTC).replace(tzinfo=None)
    transaction.run("UPDATE servers SET revision_number = :revision WHERE id = :id", revision=revision, id=instance_id)
    transaction.run("UPDATE revision_counter SET value = :revision WHERE id = 1", revision=revision)
    transaction.run(
        "INSERT INTO changes (revision, kind, object_id, deleted, at) VALUES (:revision, 'server', :id, :deleted, :at)",
        revision=revision,
        id=instance_id,
        deleted=False,
        at=now.isoformat(" ", "microseconds"),
    )


def _assign_ec2_number(transaction: Transaction, kind: str, object_id: str) -> None:
    """The next free one, unless somebody was first."""
    transaction.run(
        "INSERT INTO ec2_ids (kind, number, object_id)"
        " SELECT CAST(:kind AS VARCHAR(16)), COALESCE(MAX(number), 0) + 1, CAST(:object_id AS VARCHAR(36))"
        " FROM ec2_ids WHERE kind = CAST(:kind AS VARCHAR(16)) ON CONFLICT (kind, object_id) DO NOTHING",
        kind=kind,
        object_id=object_id,
    )


def _operators_networks(transaction: Transaction, address: str) -> set[str] | None:
    """The networks whose attributes only operators can set: shared, external, not `local`. None if no subnet of them
    contains the address.
    """
    subnets = transaction.rows(_OPERATORS_SUBNETS, version=6 if ":" in address else 4)
    if not any(ip_address(address) in ip_network(cidr) for _network, cidr in subnets):
        return None
    return {network_id for network_id, _cidr in subnets}


def _imported_ports(transaction: Transaction, address: str, networks: set[str] | None) -> Iterator[PortIdentity]:
    """Ports of instances that came with their network: they have no rows of their own."""
    for server_id, project_id, document in sorted(transaction.rows(_IMPORTED, like=f'%"{address}"%')):
        for port in (json_value(document) or {}).get("neutron_ports") or ():
            on_network = networks is None or port["network_id"] in networks
            if on_network and any(fixed["ip_address"] == address for fixed in port["fixed_ips"]):
                yield PortIdentity(server_id, project_id)
