"""Tags of every kind of resource (`standard-attr-tag`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response

from openimds.control_api.network import validators
from openimds.control_api.network.attributes import KIND_BY_COLLECTION
from openimds.control_api.network.protocols import Tags
from openimds.control_api.network.request_params import CallerDep, JsonBody
from openimds.resources.errors import BadRequest, NotFound

MAX_TAGS = 50
"""Neutron's own limit of tags on one resource."""


def router(store: Tags) -> APIRouter:
    """`/networks/{id}/tags`, `/ports/{id}/tags/{tag}` …"""
    routes = APIRouter()
    for path, kind in KIND_BY_COLLECTION.items():
        _all_tags(routes, store, path, kind)
        _one_tag(routes, store, path, kind)
    return routes


def _all_tags(routes: APIRouter, store: Tags, path: str, kind: str) -> None:
    @routes.get(f"/{path}/{{resource_id}}/tags", name=f"list_tags_of_{kind}")
    def list_tags(resource_id: str, asker: CallerDep) -> dict[str, Any]:
        return {"tags": list(store.tags(kind, asker, resource_id))}

    @routes.put(f"/{path}/{{resource_id}}/tags", name=f"replace_tags_of_{kind}")
    def replace_tags(resource_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        wanted = _tags(body)
        return {"tags": list(store.change_tags(kind, asker, resource_id, lambda _: wanted))}

    @routes.post(f"/{path}/{{resource_id}}/tags", status_code=201, name=f"add_tags_to_{kind}")
    def add_tags(resource_id: str, asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        more = _tags(body)
        return {"tags": list(store.change_tags(kind, asker, resource_id, lambda tags: _limited([*tags, *more])))}

    @routes.delete(f"/{path}/{{resource_id}}/tags", status_code=204, name=f"remove_tags_of_{kind}")
    def remove_tags(resource_id: str, asker: CallerDep) -> None:
        store.change_tags(kind, asker, resource_id, lambda _: [])


def _one_tag(routes: APIRouter, store: Tags, path: str, kind: str) -> None:
    @routes.get(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=204, name=f"check_tag_of_{kind}")
    def check_tag(resource_id: str, tag: str, asker: CallerDep) -> None:
        if tag not in store.tags(kind, asker, resource_id):
            raise _no_tag(tag, resource_id)

    @routes.put(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=201, name=f"add_tag_to_{kind}")
    def add_tag(resource_id: str, tag: str, asker: CallerDep) -> Response:
        checked = validators.tag("tag", tag)
        store.change_tags(kind, asker, resource_id, lambda tags: _limited([*tags, checked]))
        return Response(status_code=201)

    @routes.delete(f"/{path}/{{resource_id}}/tags/{{tag}}", status_code=204, name=f"remove_tag_of_{kind}")
    def remove_tag(resource_id: str, tag: str, asker: CallerDep) -> None:
        def without(tags: Sequence[str]) -> list[str]:
            if tag not in tags:
                raise _no_tag(tag, resource_id)
            return [kept for kept in tags if kept != tag]

        store.change_tags(kind, asker, resource_id, without)


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
