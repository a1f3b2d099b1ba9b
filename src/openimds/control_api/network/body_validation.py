"""A request's body → attributes, checked by the kind's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openimds.control_api.network.attributes import ATTRIBUTE_MAP, Attribute, plural
from openimds.control_api.network.validators import invalid
from openimds.resources.errors import BadRequest

MAX_BULK = 500
"""How many resources one request may make: they are one transaction."""


def to_create(kind: str, body: Any) -> tuple[list[dict[str, Any]], bool]:
    """(the attributes of each resource, was it a list?): `{"port": {…}}` or `{"ports": [{…}, …]}`."""
    if isinstance(body, dict) and isinstance(body.get(plural(kind)), list):
        entries = body[plural(kind)]
        if not 1 <= len(entries) <= MAX_BULK:
            raise invalid(plural(kind), f"it must have 1 to {MAX_BULK} entries")
        return [_created(kind, entry) for entry in entries], True
    return [_created(kind, envelope(kind, body))], False


def to_update(kind: str, body: Any) -> dict[str, Any]:
    """The attributes that a PUT changes."""
    given = envelope(kind, body)
    table = ATTRIBUTE_MAP[kind]
    _refuse_unknown(given, table)
    fixed = [name for name in given if not table[name].update]
    if fixed:
        raise BadRequest(fixed[0], f"Cannot update read-only attribute {', '.join(fixed)}.", kind="HTTPBadRequest")
    return _checked(given, table)


def envelope(kind: str, body: Any) -> dict[str, Any]:
    """What is in `{"port": {…}}`."""
    if not isinstance(body, dict) or not isinstance(body.get(kind), dict):
        raise BadRequest(
            kind,
            f"Invalid request body: it must be a JSON object with the object '{kind}' in it.",
            kind="HTTPBadRequest",
        )
    inside: dict[str, Any] = body[kind]
    return inside


def _created(kind: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(plural(kind), "an entry is not an object")
    table = ATTRIBUTE_MAP[kind]
    _refuse_unknown(given, table)
    for name, attribute in table.items():
        if attribute.required and given.get(name) is None:
            raise BadRequest(
                name,
                f"Failed to parse request. Required attribute '{name}' not specified.",
                kind="HTTPBadRequest",
            )
        if name in given and not attribute.create:
            raise BadRequest(name, f"Attribute '{name}' not allowed in POST.", kind="HTTPBadRequest")
    return _checked(given, table)


def _refuse_unknown(given: Mapping[str, Any], table: Mapping[str, Attribute]) -> None:
    unknown = [name for name in given if name not in table]
    if unknown:
        raise BadRequest(
            unknown[0], f"Unrecognized attribute(s) '{', '.join(map(str, unknown))}'.", kind="HTTPBadRequest"
        )


def _checked(given: Mapping[str, Any], table: Mapping[str, Attribute]) -> dict[str, Any]:
    checked = {name: table[name].check(name, value) for name, value in given.items()}
    return {name: value for name, value in checked.items() if table[name].kept}
