"""vendor_data2.json, and the request body for a dynamic vendor data target."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from openimds.metadata.context import DocumentSettings
from openimds.metadata.outcome import JSON, Document, json_bytes
from openimds.resources.instance import Instance

STATIC = "static"


def vendor_data2(settings: DocumentSettings, responses: Mapping[str, Any]) -> Document:
    """`{"static": …}` and the response of each dynamic target under its name. A target cannot replace `static`."""
    document: dict[str, Any] = {} if settings.static_vendor_data is None else {STATIC: settings.static_vendor_data}
    document |= {name: content for name, content in responses.items() if name not in document}
    return Document(200, JSON, json_bytes(document))


def vendordata_request(instance: Instance) -> dict[str, Any]:
    """The JSON object that a dynamic target receives, with nova's keys in nova's order."""
    user_data = instance.user_data
    return {
        "project-id": instance.project_id,
        "instance-id": instance.id,
        "image-id": instance.image_id or "",
        "user-data": None if user_data is None else b64encode(user_data).decode(),
        "hostname": instance.hostname,
        "metadata": dict(instance.metadata),
        "boot-roles": instance.boot_roles,
    }
