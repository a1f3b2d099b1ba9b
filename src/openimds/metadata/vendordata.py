"""vendor_data.json and vendor_data2.json, and what a dynamic vendor data target is sent."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from openimds.metadata.context import DocumentSettings
from openimds.metadata.outcome import JSON, Document, json_bytes
from openimds.resources.instance import Instance

STATIC = "static"


def vendor_data2(settings: DocumentSettings, said: Mapping[str, Any]) -> Document:
    """`{"static": …}` and what each dynamic target said, under its name; a target cannot replace `static`."""
    document: dict[str, Any] = {} if settings.static_vendor_data is None else {STATIC: settings.static_vendor_data}
    document |= {name: answer for name, answer in said.items() if name not in document}
    return Document(200, JSON, json_bytes(document))


def vendor_question(instance: Instance) -> dict[str, Any]:
    """What a dynamic target is asked, as JSON: nova's words and order."""
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
