"""The import of instances: a document becomes rows of servers.

An instance with `uuid` has Nova's form, any other has the form of docs/guide/import.md (schema.py). Nova's form:

{"instances": [{"uuid": …, "project_id": …, "hostname": …, "display_name": …, "flavor_name": …, "metadata": {…},
  "user_data_b64": …, "key_name": …, "key_type": …, "public_key": …, "ec2_ids": {…}, "network_info": [nova's VIFs],
  "neutron_ports": […], "device_metadata": nova's object, "numa_topology": nova's object,
  "block_device_mappings": […], "security_groups": [{"name": …}], "system_metadata": {"password_0": …}, …}]}

All fields but `uuid`, `project_id` and `hostname` may be missing or null.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest, Conflict
from openimds.store.ec2_ids import IMAGE, INSTANCE, reserve_ec2_number
from openimds.store.engine import Store, utc_now
from openimds.store.importer.schema import FieldReader, to_nova_form
from openimds.store.models.compute import Server, ServerPassword
from openimds.store.nova_objects import dedicated_cpus_from_topology, devices_from_metadata, nics_from_network_info
from openimds.store.raw.metadata_store import MetadataStore

_EC2_IDS = ("instance_id", "ami_id", "kernel_id", "ramdisk_id")


def instances_in(document: Mapping[str, Any]) -> Iterator[FieldReader]:
    """The instances of a document in Nova's form. Raises BadRequest."""
    instances = document.get("instances")
    if not isinstance(instances, list):
        raise BadRequest("instances", "the document must be an object with a list `instances`")
    seen: dict[str, str] = {}
    for place, instance in enumerate(instances):
        given = FieldReader.of(instance, f"instances[{place}]")
        fields = given if "uuid" in given.values else to_nova_form(given)
        server_id = _uuid(fields)
        if server_id in seen:
            raise given.wrong(
                "uuid" if fields is given else "id", f"{server_id} is the id of {seen[server_id]} as well"
            )
        seen[server_id] = given.place
        yield fields


def import_server(session: Session, fields: FieldReader) -> str:
    """Creates or replaces one server and returns its id. Raises BadRequest, and Conflict for a server of this cloud."""
    server_id = _uuid(fields)
    server = session.get(Server, server_id)
    if server is not None and server.imported_document is None:
        raise Conflict(f"{fields.place}: {server_id} is an instance of this cloud and cannot be replaced by an import")
    if server is None:
        server = Server(id=server_id, created_at=utc_now())
        session.add(server)
    for name, value in _columns(fields).items():
        setattr(server, name, value)
    session.flush()
    _reserve_ec2_ids(session, server)
    _import_password(session, server_id, fields)
    return server_id


def _columns(fields: FieldReader) -> dict[str, Any]:
    now = utc_now()
    return {
        "project_id": fields.text("project_id"),
        "user_id": fields.optional_text("user_id") or "",
        "name": fields.optional_text("display_name") or fields.text("hostname"),
        "hostname": fields.text("hostname"),
        "image_id": fields.optional_text("image_ref") or None,
        "flavor": {"name": fields.optional_text("flavor_name") or ""},
        "availability_zone": fields.optional_text("availability_zone"),
        "key_name": fields.optional_text("key_name") or None,
        "key_type": fields.optional_text("key_type"),
        "public_key": fields.optional_text("public_key"),
        "user_data": _user_data(fields),
        "metadata_": fields.texts("metadata"),
        "security_groups": fields.objects("security_groups"),
        "launch_index": fields.number("launch_index"),
        "reservation_id": fields.optional_text("reservation_id"),
        "root_device_name": fields.optional_text("root_device_name"),
        "kernel_id": fields.optional_text("kernel_id"),
        "ramdisk_id": fields.optional_text("ramdisk_id"),
        "block_devices": fields.objects("block_device_mappings"),
        "personality": fields.objects("personality"),
        "devices": fields.read("device_metadata", devices_from_metadata),
        "dedicated_cpus": fields.read("numa_topology", dedicated_cpus_from_topology),
        "imported_document": _imported_document(fields),
        "driver": "external",
        "status": "ACTIVE",
        "updated_at": now,
        "launched_at": now,
    }


def _imported_document(fields: FieldReader) -> dict[str, Any]:
    """The fields without a column: the network of the other cloud, EC2 ids and default devices."""
    fields.read("network_info", lambda vifs: nics_from_network_info(vifs or ()))
    document: dict[str, Any] = {
        "network_info": fields.objects("network_info"),
        "neutron_ports": [_port(port) for port in fields.parts("neutron_ports")],
        "default_ephemeral_device": fields.optional_text("default_ephemeral_device"),
        "default_swap_device": fields.optional_text("default_swap_device"),
        "boot_roles": fields.texts("system_metadata").get("boot_roles"),
    }
    given = fields.part("ec2_ids")
    if given is not None:
        document["ec2_ids"] = {name: given.optional_text(name) for name in _EC2_IDS}
    return document


def _port(port: FieldReader) -> dict[str, Any]:
    return {
        "network_id": port.text("network_id"),
        "fixed_ips": [{"ip_address": fixed.text("ip_address")} for fixed in port.parts("fixed_ips")],
    }


def _uuid(fields: FieldReader) -> str:
    text = fields.text("uuid")
    try:
        UUID(text)
    except ValueError:
        raise fields.wrong("uuid", f"{text!r} is not a UUID") from None
    return text


def _user_data(fields: FieldReader) -> bytes | None:
    text = fields.optional_text("user_data_b64")
    if text is None:
        return None
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        raise fields.wrong("user_data_b64", "it is not base64") from None


def _reserve_ec2_ids(session: Session, server: Server) -> None:
    given = (server.imported_document or {}).get("ec2_ids") or {}
    reserve_ec2_number(session, INSTANCE, server.id, given.get("instance_id"))
    for image_id, ec2_id in (
        (server.image_id, given.get("ami_id")),
        (server.kernel_id, given.get("kernel_id")),
        (server.ramdisk_id, given.get("ramdisk_id")),
    ):
        if image_id:
            reserve_ec2_number(session, IMAGE, image_id, ec2_id)


def _import_password(session: Session, server_id: str, fields: FieldReader) -> None:
    """Stores the password, which Nova splits into password_0 … password_3 of system_metadata."""
    pieces = {name: text for name, text in fields.texts("system_metadata").items() if name.startswith("password_")}
    text = "".join(pieces[name] for name in sorted(pieces))
    old = session.get(ServerPassword, server_id)
    if old is not None:
        session.delete(old)
        session.flush()
    if text:
        session.add(ServerPassword(server_id=server_id, password=text))


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
        imported: list[str] = []
        with suppress(_UndoneError), self._store.write() as session:
            imported.extend(import_server(session, fields) for fields in instances_in(document))
            if dry_run:
                session.flush()
                raise _UndoneError
        return tuple(imported)
