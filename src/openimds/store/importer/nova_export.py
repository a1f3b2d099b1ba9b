"""The script of `openimds export nova`, which the Python of nova's environment runs. It imports nothing of openimds.

The script gets `--config-file=FILE …` and optionally `--without-security-groups`. It prints one JSON object:
`{"instances": […]}` in Nova's form (importer.py), or `{"error": "a sentence"}`. Nova's own objects read the databases, as
in nova-api-metadata. The script was run with nova 29 and 34. It writes only the EC2 ids that an instance or an image does
not have yet, as a request to nova-api-metadata does.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

BATCH_SIZE = 500
"""The number of instances that one query reads."""
CELL0 = "00000000-0000-0000-0000-000000000000"
"""The cell of instances that never had a host."""
_URL_PASSWORD = re.compile(r"(://[^:@/\s]*):[^@\s]*@")
_RELATED = ["metadata", "system_metadata", "info_cache", "flavor", "keypairs", "device_metadata", "numa_topology"]
"""Nova's names of the data that one query reads together with the instances."""
_EC2_IDS = ("instance_id", "ami_id", "kernel_id", "ramdisk_id")
_BLOCK_DEVICE_FIELDS = ("device_name", "source_type", "destination_type", "guest_format")


class NovaError(Exception):
    """The instances cannot be exported. The message is a sentence for the operator."""


def main(arguments: Sequence[str]) -> int:
    """Prints the document on the standard output, and returns the exit code. Nova's own output goes to standard error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        document: dict[str, Any] = {"instances": list(_instances(arguments))}
    except NovaError as error:
        document = {"error": _without_password(str(error))}
    with output:
        json.dump(document, output)
    return 1 if "error" in document else 0


def _instances(arguments: Sequence[str]) -> Iterator[dict[str, Any]]:
    with_groups = "--without-security-groups" not in arguments
    _configure([word for word in arguments if word.startswith("--config-file=")])
    context, objects = _nova("context"), _nova("objects")
    admin = context.get_admin_context()
    cells = _read(lambda: list(objects.CellMappingList.get_all(admin)))
    for cell in cells:
        if cell.uuid == CELL0:
            continue
        with context.target_cell(admin, cell) as targeted:
            marker = None
            while batch := _read(lambda: _batch(objects, targeted, marker)):  # noqa: B023 - called immediately
                groups = _security_groups(admin, [found["uuid"] for found in batch]) if with_groups else {}
                for found in batch:
                    yield {**found, "security_groups": groups.get(found["uuid"], [])}
                marker = batch[-1]["uuid"]


def _nova(module: str) -> Any:
    """A module of nova. Raises NovaError if this Python cannot import nova."""
    try:
        return importlib.import_module(f"nova.{module}")
    except ImportError as error:
        raise NovaError(
            f"{sys.executable} cannot import nova ({error}): name the Python of nova's environment with --python"
        ) from error


def _configure(arguments: Sequence[str]) -> None:
    """Loads nova's configuration files. Raises NovaError."""
    # Nova tries to reach a database for 100 s by default.
    os.environ.update({"OS_DATABASE__MAX_RETRIES": "1", "OS_API_DATABASE__MAX_RETRIES": "1"})
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"
    sys.argv = ["openimds-export", *arguments]
    _nova("conf")
    config, objects = _nova("config"), _nova("objects")
    try:
        config.parse_args(sys.argv)
    except SystemExit:
        raise NovaError("nova does not accept the options of its configuration files") from None
    except Exception as error:
        # The end of the message quotes the line, which may hold a secret.
        reason = re.sub(r": '.*", "", _first_line(error))
        raise NovaError(f"nova's configuration cannot be read: {reason}") from error
    objects.register_all()


def _read(query: Any) -> Any:
    """The result of a query. Raises NovaError if the database cannot be read."""
    try:
        return query()
    except Exception as error:
        raise NovaError(
            f"nova's database cannot be read: {_first_line(error)}: check [api_database] and [database] connection of nova.conf, "
            "which --config-file names, and that this host reaches the server"
        ) from error


def _batch(objects: Any, context: Any, marker: str | None) -> list[dict[str, Any]]:
    """The next instances of a cell in the order of their ids."""
    instances = objects.InstanceList.get_by_filters(
        context,
        {"deleted": False, "soft_deleted": False},
        sort_key="uuid",
        sort_dir="asc",
        limit=BATCH_SIZE,
        marker=marker,
        expected_attrs=_RELATED,
    )
    ids = [instance.uuid for instance in instances]
    devices = objects.BlockDeviceMappingList.bdms_by_instance_uuid(context, ids) if ids else {}
    return [_document(instance, devices.get(instance.uuid, ())) for instance in instances]


def _document(instance: Any, block_devices: Iterable[Any]) -> dict[str, Any]:
    """An instance in Nova's form, without its security groups."""
    pairs = list(instance.keypairs or ()) if instance.key_name else []
    network_info = instance.info_cache.network_info if instance.info_cache is not None else None
    vifs = json.loads(network_info.json()) if network_info is not None else []
    return {
        "uuid": instance.uuid,
        "project_id": instance.project_id,
        "user_id": instance.user_id,
        "hostname": instance.hostname,
        "display_name": instance.display_name,
        "image_ref": instance.image_ref,
        "kernel_id": instance.kernel_id or None,
        "ramdisk_id": instance.ramdisk_id or None,
        "flavor_name": instance.flavor.name,
        "availability_zone": instance.availability_zone,
        "launch_index": instance.launch_index,
        "launched_at": instance.launched_at.isoformat() if instance.launched_at is not None else None,
        "reservation_id": instance.reservation_id,
        "root_device_name": instance.root_device_name,
        "default_ephemeral_device": instance.default_ephemeral_device,
        "default_swap_device": instance.default_swap_device,
        "key_name": instance.key_name,
        "key_type": pairs[0].type if pairs else None,
        "public_key": pairs[0].public_key if pairs else instance.key_data,
        "user_data_b64": instance.user_data,
        "metadata": dict(instance.metadata),
        "system_metadata": _shown_system_metadata(instance.system_metadata),
        "ec2_ids": {name: getattr(instance.ec2_ids, name) for name in _EC2_IDS},
        "network_info": vifs,
        "neutron_ports": [_port(vif) for vif in vifs if vif.get("network")],
        "device_metadata": _primitive(instance.device_metadata),
        "numa_topology": _primitive(instance.numa_topology),
        "block_device_mappings": [
            {name: getattr(device, name) for name in _BLOCK_DEVICE_FIELDS} for device in block_devices
        ],
    }


def _shown_system_metadata(values: Any) -> dict[str, str]:
    """The guest's password and the roles of the creator. Documents show nothing else of the system metadata."""
    return {name: text for name, text in values.items() if name.startswith("password_") or name == "boot_roles"}


def _port(vif: dict[str, Any]) -> dict[str, Any]:
    """The addresses by which the metadata API finds the instance if `service_metadata_proxy` is off."""
    addresses = [ip["address"] for subnet in vif["network"].get("subnets") or () for ip in subnet.get("ips") or ()]
    return {"network_id": vif["network"]["id"], "fixed_ips": [{"ip_address": address} for address in addresses]}


def _primitive(versioned: Any) -> Any:
    return None if versioned is None else versioned.obj_to_primitive()


def _security_groups(context: Any, ids: Sequence[str]) -> Any:
    """The names of the security groups by instance id, which Neutron has. Raises NovaError."""
    api = _nova("network.security_group_api")
    try:
        return api.get_instances_security_groups_bindings(context, [{"id": each} for each in ids])
    except Exception as error:
        raise NovaError(
            f"Neutron cannot be queried for security groups: {_first_line(error)}: check the credentials in [neutron] of "
            "nova.conf, or leave the groups out with --without-security-groups"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _without_password(text: str) -> str:
    return _URL_PASSWORD.sub(r"\1:***@", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
