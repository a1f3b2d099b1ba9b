"""The import of instances: a document becomes rows of servers.

An instance with `uuid` has Nova's form, any other has the form of docs/guide/import.md (schema.py). Nova's form:

{"instances": [{"uuid": …, "project_id": …, "hostname": …, "display_name": …, "flavor_name": …, "metadata": {…},
  "user_data_b64": …, "key_name": …, "key_type": …, "public_key": …, "ec2_ids": {…}, "network_info": [nova's VIFs],
  "neutron_ports": […], "device_metadata": nova's object, "numa_topology": nova's object,
  "block_device_mappings": […], "security_groups": [{"name": …}], "system_metadata": {"password_0": …},
  "launched_at": "2026-05-01T10:00:00Z", …}]}

All fields but `uuid`, `project_id` and `hostname` may be missing or null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest, Conflict
from openimds.resources.instance import EC2_IMAGE, EC2_INSTANCE
from openimds.store.ec2_ids import reserve_ec2_numbers
from openimds.store.engine import Store, utc_now
from openimds.store.importer.schema import ImportedInstance, NovaEc2Ids, NovaInstance
from openimds.store.models.compute import Server, ServerPassword
from openimds.store.nova_objects import dedicated_cpus_from_topology, devices_from_metadata
from openimds.store.raw.metadata_store import MetadataStore

_SAME_NAME = {"project_id", "user_id", "hostname", "availability_zone", "key_type", "public_key", "security_groups",
              "launch_index", "reservation_id", "root_device_name", "kernel_id", "ramdisk_id",
              "personality"}  # fmt: skip
"""The fields that have a column of the same name."""


@dataclass(frozen=True, slots=True)
class PlacedInstance:
    """An instance and its place in the document: `instances[3]`."""

    place: str
    instance: NovaInstance


def instances_in(document: Mapping[str, Any]) -> Iterator[PlacedInstance]:
    """The instances of a document, in Nova's form. Raises BadRequest."""
    instances = document.get("instances")
    if not isinstance(instances, list):
        raise BadRequest("instances", "the document must be an object with a list `instances`")
    seen: dict[str, str] = {}
    for number, values in enumerate(instances):
        place = f"instances[{number}]"
        is_novas = isinstance(values, Mapping) and "uuid" in values
        found = NovaInstance.parsed(values, place) if is_novas else ImportedInstance.parsed(values, place).nova_form()
        if found.uuid in seen:
            field = f"{place}.{'uuid' if is_novas else 'id'}"
            raise BadRequest(field, f"{field}: {found.uuid} is the id of {seen[found.uuid]} as well")
        seen[found.uuid] = place
        yield PlacedInstance(place, found)


Outcome = Literal["added", "changed", "unchanged", "removed"]
BATCH_SIZE = 500
"""The number of servers that one statement reads."""


def import_servers(
    session: Session, placed: Sequence[PlacedInstance], *, keeps_password: bool = False
) -> dict[str, Outcome]:
    """Creates or replaces servers, and returns what was done with each, by id. Raises Conflict for a server of this cloud.

    `keeps_password`: a stored password stays if the instance of the document has none.
    """
    outcomes: dict[str, Outcome] = {}
    for each, server, password in _with_stored(session, placed):
        outcome = _import_server(session, each, server)
        if _is_other_password(each.instance, password, keeps_password=keeps_password):
            _import_password(session, each.instance, password)
            outcome = "changed" if outcome == "unchanged" else outcome
        outcomes[each.instance.uuid] = outcome
    _reserve_ec2_ids(session, [each.instance for each in placed if outcomes[each.instance.uuid] != "unchanged"])
    return outcomes


def unchanged_ids(session: Session, placed: Sequence[PlacedInstance]) -> frozenset[str]:
    """The ids of the instances that a sync would leave as they are."""
    return frozenset(
        each.instance.uuid
        for each, server, password in _with_stored(session, placed)
        if server is not None
        and server.imported_document is not None
        and not _differences(server, each.instance)
        and not _is_other_password(each.instance, password, keeps_password=True)
    )


def _with_stored(
    session: Session, placed: Sequence[PlacedInstance]
) -> Iterator[tuple[PlacedInstance, Server | None, ServerPassword | None]]:
    """Each instance with its stored server and password, which two statements read for BATCH_SIZE instances."""
    for start in range(0, len(placed), BATCH_SIZE):
        batch = placed[start : start + BATCH_SIZE]
        ids = [each.instance.uuid for each in batch]
        servers = {row.id: row for row in session.scalars(sa.select(Server).where(Server.id.in_(ids)))}
        of_batch = sa.select(ServerPassword).where(ServerPassword.server_id.in_(ids))
        passwords = {row.server_id: row for row in session.scalars(of_batch)}
        for each in batch:
            yield each, servers.get(each.instance.uuid), passwords.get(each.instance.uuid)


def _differences(server: Server, found: NovaInstance) -> dict[str, Any]:
    """The columns in which the instance of the document differs from the server."""
    return {name: value for name, value in _columns(found).items() if getattr(server, name) != value}


def _import_server(session: Session, placed: PlacedInstance, server: Server | None) -> Outcome:
    """Creates the server, or replaces the values of `server`."""
    found, now = placed.instance, utc_now()
    if server is not None and server.imported_document is None:
        raise Conflict(f"{placed.place}: {found.uuid} is an instance of this cloud and cannot be replaced by an import")
    if server is None:
        columns = {"launched_at": now} | _columns(found)
        server = Server(id=found.uuid, created_at=now, updated_at=now, **columns)
        session.add(server)
        outcome: Outcome = "added"
    else:
        different = _differences(server, found)
        if not different:
            return "unchanged"
        for name, value in {**different, "updated_at": now}.items():
            setattr(server, name, value)
        outcome = "changed"
    return outcome


def _columns(found: NovaInstance) -> dict[str, Any]:
    launched = {} if found.launched_at is None else {"launched_at": found.launched_at}
    return (
        found.model_dump(include=_SAME_NAME)
        | launched
        | {
            "name": found.display_name or found.hostname,
            "image_id": found.image_ref or None,
            "flavor": {"name": found.flavor_name},
            "key_name": found.key_name or None,
            "user_data": found.user_data_b64,
            "metadata_": found.metadata,
            "block_devices": found.block_device_mappings,
            "devices": devices_from_metadata(found.device_metadata),
            "dedicated_cpus": dedicated_cpus_from_topology(found.numa_topology),
            "imported_document": _imported_document(found),
            "driver": "external",
            "status": "ACTIVE",
        }
    )


def _imported_document(found: NovaInstance) -> dict[str, Any]:
    """The fields without a column: the network of the other cloud, EC2 ids and default devices."""
    document = found.model_dump(
        include={"network_info", "neutron_ports", "default_ephemeral_device", "default_swap_device"}
    )
    document["boot_roles"] = found.system_metadata.get("boot_roles")
    if found.ec2_ids is not None:
        document["ec2_ids"] = found.ec2_ids.model_dump()
    return document


def _reserve_ec2_ids(session: Session, found: Sequence[NovaInstance]) -> None:
    given = [(each, each.ec2_ids or NovaEc2Ids()) for each in found]
    reserve_ec2_numbers(session, EC2_INSTANCE, [(each.uuid, ids.instance_id) for each, ids in given])
    images = [
        pair
        for each, ids in given
        for pair in ((each.image_ref, ids.ami_id), (each.kernel_id, ids.kernel_id), (each.ramdisk_id, ids.ramdisk_id))
    ]
    reserve_ec2_numbers(session, EC2_IMAGE, [(image_id, ec2_id) for image_id, ec2_id in images if image_id])


def _is_other_password(found: NovaInstance, stored: ServerPassword | None, *, keeps_password: bool) -> bool:
    is_kept = keeps_password and not found.password
    return not is_kept and (stored.password if stored is not None else "") != found.password


def _import_password(session: Session, found: NovaInstance, stored: ServerPassword | None) -> None:
    if stored is not None:
        session.delete(stored)
        session.flush()
    if found.password:
        session.add(ServerPassword(server_id=found.uuid, password=found.password))


def _imported_ids(session: Session) -> frozenset[str]:
    """The ids of all instances that an import made. A document is an object; other servers have NULL or JSON's null."""
    is_imported = sa.cast(Server.imported_document, sa.Text).like("{%")
    return frozenset(session.scalars(sa.select(Server.id).where(is_imported)))


def _remove_gone(session: Session, before: frozenset[str], present: frozenset[str], *, is_forced: bool) -> list[str]:
    """Deletes the imported servers that are not in the document. Raises Conflict if these are more than half of them."""
    gone = sorted(before - present)
    if 2 * len(gone) > len(before) and not is_forced:
        raise Conflict(
            f"nothing was changed: the file does not contain {len(gone)} of the {len(before)} instances of earlier imports. "
            "Check that the file is complete, and repeat the command with --force if these instances are gone"
        )
    for instance_id in gone:
        session.delete(session.get_one(Server, instance_id))
    return gone


class _UndoneError(Exception):
    """Leaves the write block of a dry run, so that the transaction is rolled back."""


class InstanceStore(MetadataStore):
    """A MetadataStore that can also import instances. Threads may share it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.database)
        self._store = store

    def import_instances(self, document: Mapping[str, Any], *, dry_run: bool = False) -> tuple[str, ...]:
        """Creates or replaces the instances of `{"instances": […]}`, all or none, and returns their ids.

        A dry run checks and writes everything, and rolls back. Raises BadRequest, which names the field, and Conflict.
        """
        placed = list(instances_in(document))
        with suppress(_UndoneError), self._store.write() as session:
            import_servers(session, placed)
            _undo_if(session, dry_run)
        return tuple(each.instance.uuid for each in placed)

    def sync_instances(
        self, document: Mapping[str, Any], *, is_forced: bool = False, dry_run: bool = False
    ) -> Mapping[str, Outcome]:
        """The same, and deletes the instances of earlier imports that the document does not contain. Returns what was done
        with each instance, by id.

        Instances that did not change stay untouched, and a password that the guest posted stays. Raises Conflict also if
        more than half of the instances would be deleted, unless the deletion `is_forced`.
        """
        placed = list(instances_in(document))
        with self._store.read() as session:  # most instances are unchanged, and need no write lock
            unchanged = unchanged_ids(session, placed)
        outcomes: dict[str, Outcome] = {}
        with suppress(_UndoneError), self._store.write() as session:
            before = _imported_ids(session)
            outcomes.update(dict.fromkeys(unchanged & before, "unchanged"))
            others = [each for each in placed if each.instance.uuid not in outcomes]
            outcomes.update(import_servers(session, others, keeps_password=True))
            gone = _remove_gone(session, before, frozenset(outcomes), is_forced=is_forced)
            outcomes.update(dict.fromkeys(gone, "removed"))
            _undo_if(session, dry_run)
        return outcomes


def _undo_if(session: Session, dry_run: bool) -> None:
    if dry_run:
        session.flush()
        raise _UndoneError
