"""Attributes of an image: JSON to columns and back, with validation. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openimds.resources.errors import BadRequest, Forbidden
from openimds.resources.image import CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES, Image

MAX_TAGS = 128
MAX_PROPERTIES = 128
MAX_TEXT = 65535

READ_ONLY = frozenset(
    {"checksum", "created_at", "direct_url", "file", "id", "locations", "os_hash_algo", "os_hash_value", "schema",
     "self", "size", "status", "stores", "updated_at", "virtual_size"}
)  # fmt: skip

NOT_PROPERTIES = frozenset({"owner"}) | READ_ONLY


def image_document(image: Image) -> dict[str, Any]:
    """An image as Glance shows it. Properties are at the level of the attributes."""
    return {
        **image.properties,
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "protected": image.protected,
        "os_hidden": image.hidden,
        "owner": image.owner,
        "size": image.size_bytes,
        "virtual_size": None,
        "checksum": image.checksum,
        "os_hash_algo": image.hash_algo,
        "os_hash_value": image.hash_value,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "min_disk": image.min_disk_gib,
        "min_ram": image.min_ram_mib,
        "tags": list(image.tags),
        "created_at": image.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "updated_at": image.updated_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "self": f"/v2/images/{image.id}",
        "file": f"/v2/images/{image.id}/file",
        "schema": "/v2/schemas/image",
    }


def image_schema() -> dict[str, Any]:
    """Glance's JSON schema of an image. Additional properties are strings."""
    properties: dict[str, Any] = {name: _text_schema() for name in ("id", "name", "owner", "status", "checksum")}
    properties |= {
        "visibility": {"type": "string", "enum": list(VISIBILITIES)},
        "container_format": {"type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]},
        "disk_format": {"type": ["null", "string"], "enum": [None, *DISK_FORMATS]},
        "min_disk": {"type": "integer"},
        "min_ram": {"type": "integer"},
        "protected": {"type": "boolean"},
        "os_hidden": {"type": "boolean"},
        "size": {"type": ["null", "integer"], "readOnly": True},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
    }
    return {"name": "image", "properties": properties, "additionalProperties": {"type": "string"}}


def _text_schema() -> dict[str, Any]:
    return {"type": ["null", "string"], "maxLength": 255}


def columns_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a new image. Raises BadRequest for invalid values and Forbidden for read-only attributes."""
    columns: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for name, value in attributes.items():
        if name in NOT_PROPERTIES:
            raise Forbidden(f"Attribute '{name}' is read-only.")
        if name in _CHECKS:
            column, check = _CHECKS[name]
            columns[column] = check(name, value)
        else:
            properties[_property_name(name)] = _property(name, value)
    columns["properties"] = _few(properties)
    return columns


def patched(image: Image, operations: Any) -> dict[str, Any]:
    """The columns that a JSON patch changes (RFC 6902 with Glance's subset: add, replace, remove)."""
    if not isinstance(operations, list):
        raise BadRequest("body", "Request body must be a JSON array of operation objects.")
    columns: dict[str, Any] = {}
    properties = dict(image.properties)
    tags = list(image.tags)
    for operation in operations:
        name, rest, verb, value = _operation(operation)
        if name == "tags" and rest:
            tags = [*tags, str(value)] if verb == "add" else [tag for tag in tags if tag != rest]
            columns["tags"] = _tags("tags", tags)
        elif name in NOT_PROPERTIES:
            raise Forbidden(f"Attribute '{name}' is read-only.")
        elif name in _CHECKS:
            if verb == "remove":
                raise Forbidden(f"Property {name} may not be removed: it is part of every image.")
            column, check = _CHECKS[name]
            columns[column] = check(name, value)
            tags = columns.get("tags", tags)
        else:
            _patch_property(properties, name, verb, value)
    columns["properties"] = _few(properties)
    return columns


def image_id_of(value: Any) -> str:
    try:
        return str(uuid.UUID(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest("id", "is not a UUID") from error


def _operation(operation: Any) -> tuple[str, str, str, Any]:
    """Parses one operation: (attribute, rest of the path, op, value)."""
    if not isinstance(operation, dict) or operation.get("op") not in {"add", "replace", "remove"}:
        raise BadRequest("op", "each operation is an object with an op: add, replace or remove")
    path = operation.get("path")
    if not isinstance(path, str) or not path.startswith("/") or len(path) < 2:
        raise BadRequest("path", "is /name of an attribute")
    if operation["op"] != "remove" and "value" not in operation:
        raise BadRequest("value", f"the operation {operation['op']} needs one")
    name, _, rest = path[1:].partition("/")
    return _unescaped(name), _unescaped(rest), operation["op"], operation.get("value")


def _unescaped(text: str) -> str:
    return text.replace("~1", "/").replace("~0", "~")


def _patch_property(properties: dict[str, str], name: str, verb: str, value: Any) -> None:
    if verb == "remove":
        if name not in properties:
            raise BadRequest(name, "there is no such property to remove")
        del properties[name]
        return
    properties[_property_name(name)] = _property(name, value)


def _text(name: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > 255):
        raise BadRequest(name, "is a text of at most 255 characters")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(name, "is true or false")
    return value


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise BadRequest(name, "is a whole number from 0 on")
    return value


def _one_of(choices: Sequence[str], *, optional: bool) -> Callable[[str, Any], str | None]:
    def check(name: str, value: Any) -> str | None:
        if value not in choices and not (optional and value is None):
            raise BadRequest(name, f"is one of {', '.join(choices)}")
        return value if value is None else str(value)

    return check


def _tags(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(tag, str) and 0 < len(tag) <= 255 for tag in value):
        raise BadRequest(name, "is a list of texts of 1 to 255 characters")
    unique = list(dict.fromkeys(value))
    if len(unique) > MAX_TAGS:
        raise BadRequest(name, f"an image has at most {MAX_TAGS} tags")
    return unique


def _property_name(name: str) -> str:
    if not 0 < len(name) <= 255:
        raise BadRequest("properties", "a property's name has 1 to 255 characters")
    return name


def _property(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadRequest(name, f"a property is a text of at most {MAX_TEXT} characters")
    return value


def _few(properties: dict[str, str]) -> dict[str, str]:
    if len(properties) > MAX_PROPERTIES:
        raise BadRequest("properties", f"an image has at most {MAX_PROPERTIES} properties")
    return properties


_CHECKS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "name": ("name", _text),
    "visibility": ("visibility", _one_of(VISIBILITIES, optional=False)),
    "container_format": ("container_format", _one_of(CONTAINER_FORMATS, optional=True)),
    "disk_format": ("disk_format", _one_of(DISK_FORMATS, optional=True)),
    "min_disk": ("min_disk_gib", _size),
    "min_ram": ("min_ram_mib", _size),
    "protected": ("protected", _boolean),
    "os_hidden": ("hidden", _boolean),
    "tags": ("tags", _tags),
}
"""Attribute → (column, validator)."""
