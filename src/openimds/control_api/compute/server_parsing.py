"""Request bodies of servers to NewServer, Rebuild and column values. Rejects malformed and unsupported fields."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from openimds.control_api.compute.microversions import Microversion
from openimds.control_api.compute.schemas import NetworkRef, PersonalityFile, RebuildFields, ServerCreate, ServerFields
from openimds.resources.compute import NewServer, NicRequest, Rebuild
from openimds.resources.errors import BadRequest, Forbidden, NotSupported

USER_DATA_MAX_CHARS = 65535
"""Limit of the base64 form, as in Nova."""

MAX_METADATA_ITEMS = 128
MAX_PERSONALITY_FILES = 5
MAX_PERSONALITY_BYTES = 10 * 1024
MAX_SERVERS_AT_ONCE = 50
MAX_NICS_AT_ONCE = 100
"""The limits of one request, which is one transaction and holds the write lock for less than a second."""

CREATE_SINCE = {
    "description": (2, 19),
    "tags": (2, 52),
    "trusted_image_certificates": (2, 63),
    "host": (2, 74),
    "hypervisor_hostname": (2, 74),
    "hostname": (2, 90),
}
CREATE_UNTIL = {"personality": (2, 56)}

REBUILD_SINCE = {
    "description": (2, 19),
    "key_name": (2, 54),
    "user_data": (2, 57),
    "trusted_image_certificates": (2, 63),
    "hostname": (2, 90),
}
REBUILD_UNTIL = {"personality": (2, 56)}

UPDATE_SINCE = {"description": (2, 19), "hostname": (2, 90)}

NO_VOLUMES = "openimds has no block storage: a server boots from an image onto its host's own disk."
NO_PASSWORD = "openimds sets no password in a server: leave adminPass out and use a keypair or user data."  # noqa: S105
NO_CERTIFICATES = "openimds does not check image signatures: leave trusted_image_certificates out."


def new_server(body: ServerCreate, version: Microversion, *, admin: bool) -> NewServer:
    """Raises BadRequest, Forbidden, NotSupported."""
    fields = body.server
    check_fields(fields, version, CREATE_SINCE, CREATE_UNTIL, "server")
    _reject_unsupported(body, fields)
    zone, host = _placement(fields, admin=admin)
    least, most = _counts(fields)
    check_metadata(fields.metadata)
    return NewServer(
        name=fields.name,
        hostname=fields.hostname,
        description=fields.description,
        image_id=_image(fields),
        flavor_id=fields.flavor_ref,
        key_name=fields.key_name,
        user_data=decoded_user_data(fields.user_data),
        metadata=fields.metadata,
        personality=personality_files(fields.personality),
        availability_zone=zone,
        host=host,
        nics=_nics(fields.networks, version, single=most == 1),
        nics_optional=fields.networks is None,
        security_groups=tuple(dict.fromkeys(group.name for group in fields.security_groups or ())) or ("default",),
        config_drive=bool(fields.config_drive),
        tags=tuple(dict.fromkeys(fields.tags or ())),
        access_ip_v4=fields.access_ip_v4 or None,
        access_ip_v6=fields.access_ip_v6 or None,
        min_count=least,
        max_count=most,
    )


def rebuild(fields: RebuildFields, version: Microversion) -> Rebuild:
    """Raises BadRequest, NotSupported."""
    check_fields(fields, version, REBUILD_SINCE, REBUILD_UNTIL, "rebuild")
    if fields.admin_pass is not None:
        raise NotSupported(NO_PASSWORD)
    if fields.trusted_image_certificates:
        raise NotSupported(NO_CERTIFICATES)
    check_metadata(fields.metadata or {})
    named = fields.model_fields_set
    return Rebuild(
        image_id=fields.image_ref,
        name=fields.name,
        hostname=fields.hostname,
        description=fields.description,
        clear_description="description" in named and fields.description is None,
        metadata=fields.metadata,
        personality=personality_files(fields.personality) if fields.personality is not None else None,
        user_data=decoded_user_data(fields.user_data),
        clear_user_data="user_data" in named and fields.user_data is None,
        key_name=fields.key_name,
        clear_key="key_name" in named and fields.key_name is None,
        access_ip_v4=fields.access_ip_v4,
        access_ip_v6=fields.access_ip_v6,
    )


def check_fields(
    fields: BaseModel,
    version: Microversion,
    since: Mapping[str, tuple[int, int]],
    until: Mapping[str, tuple[int, int]],
    where: str,
) -> None:
    """Raises BadRequest for a field that this microversion does not have."""
    for field in sorted(fields.model_fields_set):
        if field in since and version < since[field]:
            major, minor = since[field]
            raise BadRequest(f"{where}.{field}", f"is known from microversion {major}.{minor} on, this is {version}")
        if field in until and version > until[field]:
            major, minor = until[field]
            raise BadRequest(f"{where}.{field}", f"is known up to microversion {major}.{minor}, this is {version}")


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA_ITEMS:
        raise Forbidden(f"Maximum number of metadata items exceeds {MAX_METADATA_ITEMS}")


def decoded_user_data(text: str | None) -> bytes | None:
    """Decodes base64. Raises BadRequest if the text is too long or is not base64."""
    if text is None:
        return None
    if len(text) > USER_DATA_MAX_CHARS:
        raise BadRequest(
            "user_data",
            f"user_data: User data too large. It must be no more than {USER_DATA_MAX_CHARS} bytes in base64.",
        )
    return _from_base64("user_data", text)


def personality_files(files: Sequence[PersonalityFile] | None) -> tuple[Mapping[str, str], ...]:
    """Decodes the injected files. Raises BadRequest for invalid base64 and Forbidden beyond Nova's limits."""
    if len(files or ()) > MAX_PERSONALITY_FILES:
        raise Forbidden(f"Personality file limit exceeded: at most {MAX_PERSONALITY_FILES} files.")
    kept: list[Mapping[str, str]] = []
    for index, file in enumerate(files or ()):
        contents = _from_base64(f"personality[{index}].contents", file.contents)
        if len(contents) > MAX_PERSONALITY_BYTES:
            raise Forbidden(f"Personality content limit exceeded: {file.path} has over {MAX_PERSONALITY_BYTES} bytes.")
        kept.append({"path": file.path, "contents": base64.b64encode(contents).decode()})
    return tuple(kept)


def _reject_unsupported(body: ServerCreate, fields: ServerFields) -> None:
    if body.scheduler_hints or body.old_scheduler_hints:
        raise NotSupported("Scheduler hints are not supported: name an availability zone or a host instead.")
    if fields.admin_pass is not None:
        raise NotSupported(NO_PASSWORD)
    if fields.trusted_image_certificates:
        raise NotSupported(NO_CERTIFICATES)
    if fields.block_device_mapping:
        raise NotSupported(NO_VOLUMES)


def _image(fields: ServerFields) -> str | None:
    """The image's id, from imageRef (an id, or a URL that ends in one, as in Nova) or from the only block device."""
    image_id = (fields.image_ref or "").rstrip("/").rsplit("/", 1)[-1] or None
    for device in fields.block_device_mapping_v2 or ():
        is_root = device.source_type == "image" and device.destination_type == "local" and str(device.boot_index) == "0"
        if not is_root or device.tag:
            raise NotSupported(NO_VOLUMES)
        if image_id is not None and device.uuid != image_id:
            raise BadRequest("block_device_mapping_v2", "its boot device is not the image that imageRef names")
        image_id = device.uuid
    if image_id is None:
        raise BadRequest("imageRef", "imageRef: Invalid imageRef provided: a server needs an image to boot from.")
    return image_id


def _placement(fields: ServerFields, *, admin: bool) -> tuple[str | None, str | None]:
    """(zone, host). Administrators may send `zone:host` as the zone."""
    zone, _, zone_host = (fields.availability_zone or "").partition(":")
    host = fields.host or fields.hypervisor_hostname or zone_host.partition(":")[0] or None
    if host and not admin:
        raise Forbidden(
            "Policy doesn't allow compute:servers:create:requested_destination: only an administrator names a host."
        )
    return zone or None, host


def _counts(fields: ServerFields) -> tuple[int, int]:
    least = fields.min_count or 1
    most = fields.max_count or least
    if least > most:
        raise BadRequest("min_count", "min_count must be <= max_count")
    if most > MAX_SERVERS_AT_ONCE:
        raise BadRequest("max_count", f"at most {MAX_SERVERS_AT_ONCE} servers are made by one request")
    nics = len(fields.networks) if isinstance(fields.networks, list) else 1
    if most * nics > MAX_NICS_AT_ONCE:
        raise BadRequest("networks", f"at most {MAX_NICS_AT_ONCE} NICs of all servers are made by one request")
    return least, most


def _nics(
    networks: list[NetworkRef] | str | None, version: Microversion, *, single: bool
) -> tuple[NicRequest, ...] | None:
    """The requested NICs. None if the store chooses the project's only network."""
    if networks is None:
        if version >= (2, 37):
            raise BadRequest("networks", "networks: is required from microversion 2.37 on: a list, auto or none")
        return None
    if isinstance(networks, str):
        if version < (2, 37):
            raise BadRequest("networks", "networks: auto and none are known from microversion 2.37 on")
        return () if networks == "none" else None
    if not networks:
        return None if version < (2, 37) else ()
    return tuple(_nic(index, ref, version, single=single) for index, ref in enumerate(networks))


def _nic(index: int, ref: NetworkRef, version: Microversion, *, single: bool) -> NicRequest:
    where = f"networks[{index}]"
    if ref.tag and (version < (2, 32) or (2, 37) <= version < (2, 42)):
        raise BadRequest(f"{where}.tag", f"is not known at microversion {version}; it is from 2.42 on")
    if not ref.port and not ref.uuid:
        raise BadRequest(where, "Bad networks format: network uuid is not given")
    if ref.fixed_ip and not ref.uuid:
        raise BadRequest(where, "fixed_ip needs the network's uuid")
    if not single and (ref.port or ref.fixed_ip):
        raise BadRequest(where, "Unable to launch multiple instances with a single configured port ID or fixed IP")
    return NicRequest(network_id=None if ref.port else ref.uuid, port_id=ref.port, fixed_ip=ref.fixed_ip, tag=ref.tag)


def _from_base64(field: str, text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(field, f"{field}: content cannot be decoded: it is not base64") from error


def changes(fields: Any, version: Microversion) -> dict[str, Any]:
    """The column values of a `PUT /servers/{id}`. Raises BadRequest for fields of later microversions."""
    check_fields(fields, version, UPDATE_SINCE, {}, "server")
    named = fields.model_fields_set
    columns = {
        name: getattr(fields, name)
        for name in ("name", "description", "hostname", "access_ip_v4", "access_ip_v6")
        if name in named and (name == "description" or getattr(fields, name) is not None)
    }
    for name in ("access_ip_v4", "access_ip_v6"):
        if columns.get(name) == "":
            columns[name] = None
    return columns
