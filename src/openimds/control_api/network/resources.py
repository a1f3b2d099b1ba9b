"""The routes of network resources: list, show, create, update and delete for each kind, tags, router interfaces and extra
routes. Request bodies are validated by the tables in attributes, which also give the schemas in /openapi.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from openimds.control_api.network import request_params, validators
from openimds.control_api.network.attributes import (
    ATTRIBUTE_MAP,
    KIND_BY_COLLECTION,
    ROUTE,
    Attribute,
    MustBeUnset,
    plural,
)
from openimds.control_api.network.protocols import Resources, RouterActions, Tags
from openimds.control_api.network.request_params import CallerDep, ExpectedRevision, JsonBody, QueryParams
from openimds.control_api.network.validators import IntRange, ListOf, Nullable, OneOf, Struct, Validator, invalid
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import BadRequest, NotFound, NotSupported

MAX_BULK = {"network": 500, "security_group": 500, "subnet": 100, "port": 100, "floatingip": 100, "router": 50}
"""Maximum number of resources in one request, which is one transaction and holds the write lock for less than a second."""


def to_create(kind: str, body: Any) -> tuple[list[dict[str, Any]], bool]:
    """Parses `{"port": {…}}` or `{"ports": [{…}, …]}`. Returns (attributes of each resource, True for a list)."""
    if isinstance(body, dict) and isinstance(body.get(plural(kind)), list):
        entries = body[plural(kind)]
        if not 1 <= len(entries) <= MAX_BULK[kind]:
            raise invalid(plural(kind), f"it must have 1 to {MAX_BULK[kind]} entries")
        return [_create_attributes(kind, entry) for entry in entries], True
    return [_create_attributes(kind, envelope(kind, body))], False


def to_update(kind: str, body: Any) -> dict[str, Any]:
    """Parses the body of a PUT. Returns the changed attributes."""
    given = envelope(kind, body)
    table = ATTRIBUTE_MAP[kind]
    _reject_unknown(given, table)
    fixed = [name for name in given if not table[name].update]
    if fixed:
        raise BadRequest(fixed[0], f"Cannot update read-only attribute {', '.join(fixed)}.", kind="HTTPBadRequest")
    return _validated(given, table)


def envelope(kind: str, body: Any) -> dict[str, Any]:
    """The object in `{"port": {…}}`."""
    if not isinstance(body, dict) or not isinstance(body.get(kind), dict):
        raise BadRequest(
            kind,
            f"Invalid request body: it must be a JSON object with the object '{kind}' in it.",
            kind="HTTPBadRequest",
        )
    inside: dict[str, Any] = body[kind]
    return inside


def _create_attributes(kind: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(plural(kind), "an entry is not an object")
    table = ATTRIBUTE_MAP[kind]
    _reject_unknown(given, table)
    for name, attribute in table.items():
        if attribute.required and given.get(name) is None:
            raise BadRequest(
                name,
                f"Failed to parse request. Required attribute '{name}' not specified.",
                kind="HTTPBadRequest",
            )
        if name in given and not attribute.create:
            raise BadRequest(name, f"Attribute '{name}' not allowed in POST.", kind="HTTPBadRequest")
    return _validated(given, table)


def _reject_unknown(given: Mapping[str, Any], table: Mapping[str, Attribute]) -> None:
    unknown = [name for name in given if name not in table]
    if unknown:
        raise BadRequest(
            unknown[0], f"Unrecognized attribute(s) '{', '.join(map(str, unknown))}'.", kind="HTTPBadRequest"
        )


def _validated(given: Mapping[str, Any], table: Mapping[str, Attribute]) -> dict[str, Any]:
    checked = {name: table[name].check(name, value) for name, value in given.items()}
    return {name: value for name, value in checked.items() if table[name].stored}


SCHEMA_BY_VALIDATOR: dict[Validator, dict[str, Any]] = {
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
        if attribute.stored and (attribute.create if creating else attribute.update)
    }
    inside: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [name for name, attribute in table.items() if attribute.required]
    if creating and required:
        inside["required"] = required
    body = {"type": "object", "properties": {kind: inside}, "required": [kind]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def schema(check: Validator) -> dict[str, Any]:
    """The JSON Schema of the values that a validator accepts."""
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
    return SCHEMA_BY_VALIDATOR[check]


def router(store: Resources) -> APIRouter:
    """`/networks`, `/subnets`, `/ports`, `/routers`, `/floatingips`, `/security-groups`."""
    routes = ServiceRouter()
    for path, kind in KIND_BY_COLLECTION.items():
        _reading(routes, store, path, kind)
        _writing(routes, store, path, kind)
    return routes


def _reading(routes: APIRouter, store: Resources, path: str, kind: str) -> None:
    many = plural(kind)

    @routes.get(f"/{path}", name=f"list_{many}")
    def list_(request: Request, caller: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        query, fields = request_params.list_query(pairs), request_params.requested_fields(pairs)
        page = store.list(kind, caller, query)
        answer: dict[str, Any] = {many: [request_params.select_fields(item, fields) for item in page.items]}
        links = request_params.page_links(str(request.url.replace(query="")), pairs, query, page)
        if links:
            answer[f"{many}_links"] = links
        return answer

    @routes.get(f"/{path}/{{resource_id}}", name=f"show_{kind}")
    def show(resource_id: str, caller: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        return {
            kind: request_params.select_fields(
                store.show(kind, caller, resource_id), request_params.requested_fields(pairs)
            )
        }


def _writing(routes: APIRouter, store: Resources, path: str, kind: str) -> None:
    many = plural(kind)

    @routes.post(f"/{path}", status_code=201, name=f"create_{kind}", openapi_extra=request_schema(kind, creating=True))
    def create(caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        wanted, is_list = to_create(kind, body)
        made = store.create(kind, caller, wanted)
        return {many: list(made)} if is_list else {kind: made[0]}

    @routes.put(f"/{path}/{{resource_id}}", name=f"update_{kind}", openapi_extra=request_schema(kind, creating=False))
    def update(resource_id: str, caller: CallerDep, body: JsonBody, if_revision: ExpectedRevision) -> dict[str, Any]:
        wanted = to_update(kind, body)
        return {kind: store.update(kind, caller, resource_id, wanted, if_revision=if_revision)}

    @routes.delete(f"/{path}/{{resource_id}}", status_code=204, name=f"delete_{kind}")
    def delete(resource_id: str, caller: CallerDep, if_revision: ExpectedRevision) -> None:
        store.delete(kind, caller, resource_id, if_revision=if_revision)


MAX_TAGS = 50
"""Neutron's limit of tags on one resource."""


def tags_router(store: Tags) -> APIRouter:
    """`/networks/{id}/tags`, `/ports/{id}/tags/{tag}` …"""
    routes = ServiceRouter()
    for path, kind in KIND_BY_COLLECTION.items():
        _all_tags(routes, store, path, kind)
        _one_tag(routes, store, path, kind)
    return routes


def _all_tags(routes: APIRouter, store: Tags, path: str, kind: str) -> None:
    @routes.get(f"/{path}/{{resource_id}}/tags", name=f"list_tags_of_{kind}")
    def list_tags(resource_id: str, caller: CallerDep) -> dict[str, Any]:
        return {"tags": list(store.tags(kind, caller, resource_id))}

    @routes.put(f"/{path}/{{resource_id}}/tags", name=f"replace_tags_of_{kind}")
    def replace_tags(resource_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        wanted = _tags(body)
        return {"tags": list(store.change_tags(kind, caller, resource_id, lambda _: wanted))}

    @routes.post(f"/{path}/{{resource_id}}/tags", status_code=201, name=f"add_tags_to_{kind}")
    def add_tags(resource_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        more = _tags(body)
        return {"tags": list(store.change_tags(kind, caller, resource_id, lambda tags: _limited([*tags, *more])))}

    @routes.delete(f"/{path}/{{resource_id}}/tags", status_code=204, name=f"remove_tags_of_{kind}")
    def remove_tags(resource_id: str, caller: CallerDep) -> None:
        store.change_tags(kind, caller, resource_id, lambda _: [])


def _one_tag(routes: APIRouter, store: Tags, path: str, kind: str) -> None:
    @routes.get(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=204, name=f"check_tag_of_{kind}")
    def check_tag(resource_id: str, tag: str, caller: CallerDep) -> None:
        if tag not in store.tags(kind, caller, resource_id):
            raise _no_tag(tag, resource_id)

    @routes.put(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=201, name=f"add_tag_to_{kind}")
    def add_tag(resource_id: str, tag: str, caller: CallerDep) -> Response:
        checked = validators.tag("tag", tag)
        store.change_tags(kind, caller, resource_id, lambda tags: _limited([*tags, checked]))
        return Response(status_code=201)

    @routes.delete(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=204, name=f"remove_tag_of_{kind}")
    def remove_tag(resource_id: str, tag: str, caller: CallerDep) -> None:
        def without(tags: Sequence[str]) -> list[str]:
            if tag not in tags:
                raise _no_tag(tag, resource_id)
            return [stored for stored in tags if stored != tag]

        store.change_tags(kind, caller, resource_id, without)


def _tags(body: Any) -> list[str]:
    if not isinstance(body, dict) or not isinstance(body.get("tags"), list):
        raise BadRequest("tags", "Invalid request body: it must be an object with the list 'tags'.")
    return _limited([validators.tag("tags", tag) for tag in body["tags"]])


def _limited(tags: Sequence[str]) -> list[str]:
    distinct = list(dict.fromkeys(tags))
    if len(distinct) > MAX_TAGS:
        raise validators.invalid("tags", f"a resource has at most {MAX_TAGS} tags")
    return distinct


def _no_tag(tag: str, resource_id: str) -> NotFound:
    return NotFound(f"Tag {tag} could not be found on {resource_id}.", kind="TagNotFound")


INTERFACE = validators.Struct({"subnet_id": validators.uuid_or_null, "port_id": validators.uuid_or_null})


def router_actions(store: RouterActions) -> APIRouter:
    """`/routers/{id}/add_router_interface`, `/routers/{id}/add_extraroutes` and the like."""
    routes = ServiceRouter()
    _interfaces(routes, store)
    _extra_routes(routes, store)

    @routes.put("/routers/{router_id}/{action}")
    def other(router_id: str, action: str, caller: CallerDep) -> None:
        del caller
        raise NotSupported(f"openimds does not have the action {action} of routers ({router_id}).")

    return routes


def _interfaces(routes: APIRouter, store: RouterActions) -> None:
    @routes.put("/routers/{router_id}/add_router_interface")
    def add_router_interface(router_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        return store.add_router_interface(caller, router_id, _interface_reference(body))

    @routes.put("/routers/{router_id}/remove_router_interface")
    def remove_router_interface(router_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        return store.remove_router_interface(caller, router_id, _interface_reference(body))


def _extra_routes(routes: APIRouter, store: RouterActions) -> None:
    @routes.put("/routers/{router_id}/add_extraroutes")
    def add_extraroutes(router_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        return {"router": store.change_routes(caller, router_id, {"add": _routes(body)})}

    @routes.put("/routers/{router_id}/remove_extraroutes")
    def remove_extraroutes(router_id: str, caller: CallerDep, body: JsonBody) -> dict[str, Any]:
        return {"router": store.change_routes(caller, router_id, {"remove": _routes(body)})}


def _interface_reference(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("subnet_id", "The body must be an object with subnet_id or port_id.", kind="HTTPBadRequest")
    return INTERFACE("router interface", body)


def _routes(body: Any) -> list[dict[str, str]]:
    inside = envelope("router", body)
    return validators.ListOf(ROUTE)("routes", inside.get("routes"))
