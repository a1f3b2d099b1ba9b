"""The store of the metadata API: instances, lookups by address, and the password, which is all that guests write."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.resources.instance import Instance
from openimds.store.raw.database import Database, Transaction
from openimds.store.raw.epochs import EpochTracker, new_epoch_id
from openimds.store.raw.instances import instances_of
from openimds.store.raw.statements import Query, json_value

PROVIDER_TAG = "metadata-provider="
"""A subnet with the tag `metadata-provider=lb-1` is served by the metadata provider `lb-1`. Neutron's plug-ins with
such providers keep this as `advanced_service_providers` of the subnet. Only administrators and services change it."""

BATCH_SIZE = 250
"""Maximum number of instances of one read. It bounds the memory: a read copies user data (64 KiB each) several times."""

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
    # A first filter only: the text may contain the address in another role.
    "servers WHERE CAST(imported_document AS TEXT) LIKE :like",
)
_TAGS = Query(("network_id", "tags"), "subnets WHERE CAST(tags AS TEXT) LIKE :like")
_IS_SERVER = Query(("1",), "servers WHERE id = :id")
_HAS_PASSWORD = Query(("1",), "server_passwords WHERE server_id = :id")


@dataclass(frozen=True, slots=True)
class PortIdentity:
    """The instance and the project that a client's address identifies."""

    instance_id: str
    project_id: str


class MetadataStore:
    """Reads instances. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._epochs = EpochTracker()

    def revision(self) -> int:
        """The newest committed revision. Data read at this revision is current while the revision stays."""
        return self._database.revision()

    def instance(self, instance_id: str) -> Instance | None:
        """The instance, or None if none has this id. The first read assigns its EC2 ids.

        Raises StoreUnavailable if its rows cannot be read.
        """
        found = self.instances([instance_id])[1]
        if instance_id not in found:
            raise StoreUnavailable(f"the rows of instance {instance_id} cannot be read; the log has the reason")
        return found[instance_id]

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]:
        """(revision of the read, instances by id), in a few queries. An id without an instance has the value None.

        An instance whose rows cannot be read is left out.
        """
        ids = list(instance_ids)
        found: dict[str, Instance] = {}
        missing: list[tuple[str, str]] = []
        unreadable: set[str] = set()
        with self._database.read() as transaction:
            revision = transaction.revision()
            for start in range(0, len(ids), BATCH_SIZE):
                some = instances_of(transaction, ids[start : start + BATCH_SIZE])
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
        """The ids of all instances that have this fixed IP on any network. An address with several identifies none.

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
        """The ports with this address on the networks that the provider serves. None if it serves no network."""
        tag = f"{PROVIDER_TAG}{provider_id}"
        with self._database.read() as transaction:
            subnets = transaction.rows(_TAGS, like=f"%{PROVIDER_TAG}%")
            networks = {network_id for network_id, tags in subnets if tag in (json_value(tags) or ())}
            if not networks:
                return None
            ports = sorted(transaction.rows(_PORTS, address=address))
            owners = [PortIdentity(server, project) for _id, server, project, network in ports if network in networks]
            return (*owners, *_imported_ports(transaction, address, networks))

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """Stores the password. Returns False if the instance has one already. An empty text is not stored, because it
        means "not set". Raises NotFound.
        """
        with self._database.write() as transaction:
            revision = transaction.revision() + 1
            if not transaction.rows(_IS_SERVER, id=instance_id):
                raise NotFound(f"the password cannot be stored: instance {instance_id} does not exist")
            if transaction.rows(_HAS_PASSWORD, id=instance_id):
                return False
            if text:
                transaction.run(
                    "INSERT INTO server_passwords (server_id, password) VALUES (:id, :text)", id=instance_id, text=text
                )
                _record_server_change(transaction, instance_id, revision)
                if self._epochs.starts_with(revision):
                    transaction.run("DELETE FROM epochs WHERE first_revision >= :revision", revision=revision)
                    transaction.run(
                        "INSERT INTO epochs (first_revision, id) VALUES (:revision, :id)",
                        revision=revision,
                        id=new_epoch_id(),
                    )
        if text:
            self._epochs.committed(revision)
        return True


def _record_server_change(transaction: Transaction, instance_id: str, revision: int) -> None:
    """Adds the revision and its change, as ChangeRecorder does for mapped objects."""
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
    """Assigns the next free number, unless the object has one."""
    transaction.run(
        "INSERT INTO ec2_ids (kind, number, object_id)"
        " SELECT CAST(:kind AS VARCHAR(16)), COALESCE(MAX(number), 0) + 1, CAST(:object_id AS VARCHAR(36))"
        " FROM ec2_ids WHERE kind = CAST(:kind AS VARCHAR(16)) ON CONFLICT (kind, object_id) DO NOTHING",
        kind=kind,
        object_id=object_id,
    )


def _operators_networks(transaction: Transaction, address: str) -> set[str] | None:
    """The operators' networks: shared, external, not `local`. Members cannot set these attributes. None if no subnet of
    these networks contains the address.
    """
    subnets = transaction.rows(_OPERATORS_SUBNETS, version=6 if ":" in address else 4)
    if not any(ip_address(address) in ip_network(cidr) for _network, cidr in subnets):
        return None
    return {network_id for network_id, _cidr in subnets}


def _imported_ports(transaction: Transaction, address: str, networks: set[str] | None) -> Iterator[PortIdentity]:
    """The ports of imported instances, which are part of the imported document and have no rows."""
    for server_id, project_id, document in sorted(transaction.rows(_IMPORTED, like=f'%"{address}"%')):
        for port in (json_value(document) or {}).get("neutron_ports") or ():
            on_network = networks is None or port["network_id"] in networks
            if on_network and any(fixed["ip_address"] == address for fixed in port["fixed_ips"]):
                yield PortIdentity(server_id, project_id)
