"""Attributes of an image: JSON to columns and back, with validation. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from openimds.resources.errors import BadRequest, Forbidden
from openimds.resources.image import (
    CONTAINER_FORMATS,
    DISK_FORMATS,
    VISIBILITIES,
    ContainerFormat,
    DiskFormat,
    Image,
    Visibility,
)

MAX_TAGS = 128
MAX_PROPERTIES = 128
MAX_TEXT = 65535
MAX_OPERATIONS = 500

READ_ONLY = frozenset(
    {"checksum", "created_at", "direct_url", "file", "id", "locations", "os_hash_algo", "os_hash_value", "schema",
     "self", "size", "status", "stores", "updated_at", "virtual_size"}
)  # fmt: skip

NOT_PROPERTIES = frozenset({"owner"}) | READ_ONLY

COLUMNS = {"min_disk": "min_disk_gib", "min_ram": "min_ram_mib", "os_hidden": "hidden"}
"""Attribute → column, where the names differ."""


def _distinct_tags(tags: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(tags))
    if len(distinct) > MAX_TAGS:
        raise ValueError(f"an image has at most {MAX_TAGS} tags")
    return distinct


_Name = Annotated[str, Field(max_length=255)]
_Text = Annotated[str, Field(min_length=1, max_length=255)]
_Size = Annotated[int, Field(ge=0, lt=2**31)]


class ImageAttributes(BaseModel):
    """The attributes that a client can set. All others are properties: text with a name of 1 to 255 characters."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[_Text, Annotated[str, Field(max_length=MAX_TEXT)]]

    name: _Name | None = None
    visibility: Visibility = "shared"
    container_format: ContainerFormat | None = None
    disk_format: DiskFormat | None = None
    min_disk: _Size = 0
    min_ram: _Size = 0
    protected: bool = False
    os_hidden: bool = False
    tags: Annotated[list[_Text], AfterValidator(_distinct_tags)] = []


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
    columns, properties = _validated(attributes)
    return {**columns, "properties": _limited(properties)}


def patched(image: Image, operations: Any) -> dict[str, Any]:
    """The columns that a JSON patch changes (RFC 6902 with Glance's subset: add, replace, remove)."""
    if not isinstance(operations, list):
        raise BadRequest("body", "Request body must be a JSON array of operation objects.")
    if len(operations) > MAX_OPERATIONS:
        raise BadRequest("body", f"a patch has at most {MAX_OPERATIONS} operations")
    columns: dict[str, Any] = {}
    properties = dict(image.properties)
    tags = list(image.tags)
    for operation in operations:
        name, rest, verb, value = _operation(operation)
        if name == "tags" and rest:
            tags = [*tags, str(value)] if verb == "add" else [tag for tag in tags if tag != rest]
            columns |= _validated({"tags": tags})[0]
        elif verb == "remove":
            _remove_property(properties, name)
        else:
            changed, added = _validated({name: value})
            columns |= changed
            properties |= added
            tags = columns.get("tags", tags)
    return {**columns, "properties": _limited(properties)}


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


def _remove_property(properties: dict[str, str], name: str) -> None:
    _refuse_read_only(name)
    if name in ImageAttributes.model_fields:
        raise Forbidden(f"Property {name} may not be removed: it is part of every image.")
    if name not in properties:
        raise BadRequest(name, "the image has no such property")
    del properties[name]


def _validated(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(columns, properties). Raises BadRequest for the first invalid attribute, Forbidden for a read-only one."""
    for name in attributes:
        _refuse_read_only(name)
    try:
        model = ImageAttributes.model_validate(dict(attributes))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadRequest(field, f"{field}: {first['msg'].removeprefix('Value error, ')}") from error
    properties: dict[str, str] = model.model_extra or {}
    given = model.model_dump(include=model.model_fields_set - properties.keys())
    return {COLUMNS.get(name, name): value for name, value in given.items()}, properties


def _refuse_read_only(name: str) -> None:
    if name in NOT_PROPERTIES:
        raise Forbidden(f"Attribute '{name}' is read-only.")


def _limited(properties: dict[str, str]) -> dict[str, str]:
    if len(properties) > MAX_PROPERTIES:
        raise BadRequest("properties", f"an image has at most {MAX_PROPERTIES} properties")
    return properties
