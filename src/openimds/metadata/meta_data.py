"""meta_data.json: who the instance is. The order of the keys is nova's."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from openimds.metadata.context import RenderContext
from openimds.metadata.devices import devices_document
from openimds.metadata.injected_files import content_files
from openimds.metadata.versions import GRIZZLY, LIBERTY, NEWTON_ONE, VICTORIA, is_since

RANDOM_SEED = "random_seed"
RANDOM_SEED_BYTES = 512


def meta_data(reading: RenderContext, version: str) -> dict[str, Any]:
    """The document in this version. `random_seed` is new at every call."""
    instance = reading.instance
    document: dict[str, Any] = {"uuid": instance.id}
    if instance.metadata:
        document["meta"] = dict(instance.metadata)
    document |= _files(reading) | _keys(reading)
    document |= {
        "hostname": reading.hostname,
        "name": instance.name,
        "launch_index": instance.launch_index,
        "availability_zone": instance.availability_zone,
    }
    if is_since(version, GRIZZLY):
        document[RANDOM_SEED] = b64encode(reading.random_bytes(RANDOM_SEED_BYTES)).decode()
    if is_since(version, LIBERTY):
        document["project_id"] = instance.project_id
    if is_since(version, NEWTON_ONE):
        document["devices"] = devices_document(instance.devices, version)
    if is_since(version, VICTORIA):
        document["dedicated_cpus"] = sorted(instance.dedicated_cpus)
    return document


def _files(reading: RenderContext) -> dict[str, Any]:
    files = content_files(reading.instance)
    document: dict[str, Any] = {}
    injected = [{"path": file.path, "content_path": file.content_path} for file in files if file.path is not None]
    if injected:
        document["files"] = injected
    for file in files:
        if file.path is None:
            document["network_config"] = {"name": "network_config", "content_path": file.content_path}
    return document


def _keys(reading: RenderContext) -> dict[str, Any]:
    key = reading.instance.key
    if key is None or key.public_key is None:
        return {}
    return {
        "public_keys": {key.name: key.public_key},
        "keys": [{"name": key.name, "type": key.type, "data": key.public_key}],
    }
