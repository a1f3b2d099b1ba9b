"""The tables of attributes → the request bodies in /openapi.json."""

from __future__ import annotations

from typing import Any

from openimds.control_api.network import validators
from openimds.control_api.network.attributes import ATTRIBUTE_MAP, MustBeUnset
from openimds.control_api.network.validators import IntRange, ListOf, Nullable, OneOf, Struct, Validator

SIMPLE: dict[Validator, dict[str, Any]] = {
    validators.text: {"type": "string", "maxLength": validators.MAX_TEXT},
    validators.text_or_null: {"type": ["string", "null"], "maxLength": validators.MAX_TEXT},
    validators.boolean: {"type": "boolean"},
    validators.uuid: {"type": "string", "format": "uuid"},
    validators.uuid_or_null: {"type": ["string", "null"], "format": "uuid"},
    validators.project_id: {"type": "string"},
    validators.address: {"type": "string", "description": "An IPv4 or IPv6 address"},
    validators.address_or_null: {"type": ["string", "null"], "description": "An IPv4 or IPv6 address"},
    validators.address_or_cidr: {"type": "string", "description": "An address or a CIDR"},
    validators.cidr: {"type": "string", "description": "A CIDR"},
    validators.mac: {"type": "string", "description": "A MAC address"},
    validators.mac_or_null: {"type": ["string", "null"], "description": "A MAC address"},
    validators.dns_name: {"type": "string"},
    validators.tag: {"type": "string", "maxLength": validators.MAX_TEXT},
    validators.json_object: {"type": "object"},
    validators.fixed_ips: {
        "type": "array",
        "items": {"type": "object", "properties": {"subnet_id": {"type": "string"}, "ip_address": {"type": "string"}}},
    },
    validators.dhcp_option: {
        "type": "object",
        "properties": {
            "opt_name": {"type": "string"},
            "opt_value": {"type": ["string", "null"]},
            "ip_version": {"enum": [4, 6]},
        },
        "required": ["opt_name"],
    },
    validators.gateway_info: {
        "type": ["object", "null"],
        "properties": {
            "network_id": {"type": "string", "format": "uuid"},
            "enable_snat": {"type": "boolean"},
            "external_fixed_ips": {"type": "array", "items": {"type": "object"}},
        },
    },
}


def request_schema(kind: str, *, creating: bool) -> dict[str, Any]:
    """FastAPI's `openapi_extra` for the body of a POST or PUT."""
    table = ATTRIBUTE_MAP[kind]
    properties = {
        name: schema(attribute.check)
        for name, attribute in table.items()
        if attribute.kept and (attribute.create if creating else attribute.update)
    }
    inside: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [name for name, attribute in table.items() if attribute.required]
    if creating and required:
        inside["required"] = required
    body = {"type": "object", "properties": {kind: inside}, "required": [kind]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def schema(check: Validator) -> dict[str, Any]:
    """JSON Schema of what a check takes."""
    if isinstance(check, IntRange):
        return {"type": "integer", "minimum": check.least, "maximum": check.most}
    if isinstance(check, OneOf):
        return {"enum": list(check.values)}
    if isinstance(check, MustBeUnset):
        return {"enum": list(check.values)}
    if isinstance(check, Nullable):
        return {"anyOf": [schema(check.check), {"type": "null"}]}
    if isinstance(check, ListOf):
        return {"type": "array", "items": schema(check.check)}
    if isinstance(check, Struct):
        properties = {name: schema(inner) for name, inner in check.keys.items()}
        return {"type": "object", "properties": properties, "required": sorted(check.required)}
    return SIMPLE[check]
