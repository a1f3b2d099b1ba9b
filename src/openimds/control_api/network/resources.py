"""list, show, create, update and delete of every kind: the same five calls, made from the table of kinds."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from openimds.control_api.network import body_validation, request_params
from openimds.control_api.network.attributes import KIND_BY_COLLECTION, plural
from openimds.control_api.network.openapi import request_schema
from openimds.control_api.network.protocols import Resources
from openimds.control_api.network.request_params import CallerDep, ExpectedRevision, JsonBody, QueryParams


def router(store: Resources) -> APIRouter:
    """`/networks`, `/subnets`, `/ports`, `/routers`, `/floatingips`, `/security-groups`."""
    routes = APIRouter()
    for path, kind in KIND_BY_COLLECTION.items():
        _reading(routes, store, path, kind)
        _writing(routes, store, path, kind)
    return routes


def _reading(routes: APIRouter, store: Resources, path: str, kind: str) -> None:
    many = plural(kind)

    @routes.get(f"/{path}", name=f"list_{many}")
    def list_(request: Request, asker: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        query, fields = request_params.list_query(pairs), request_params.requested_fields(pairs)
        page = store.list(kind, asker, query)
        answer: dict[str, Any] = {many: [request_params.select_fields(item, fields) for item in page.items]}
        links = request_params.page_links(str(request.url.replace(query="")), pairs, query, page)
        if links:
            answer[f"{many}_links"] = links
        return answer

    @routes.get(f"/{path}/{{resource_id}}", name=f"show_{kind}")
    def show(resource_id: str, asker: CallerDep, pairs: QueryParams) -> dict[str, Any]:
        return {
            kind: request_params.select_fields(
                store.show(kind, asker, resource_id), request_params.requested_fields(pairs)
            )
        }


def _writing(routes: APIRouter, store: Resources, path: str, kind: str) -> None:
    many = plural(kind)

    @routes.post(f"/{path}", status_code=201, name=f"create_{kind}", openapi_extra=request_schema(kind, creating=True))
    def create(asker: CallerDep, body: JsonBody) -> dict[str, Any]:
        wanted, is_list = body_validation.to_create(kind, body)
        made = store.create(kind, asker, wanted)
        return {many: list(made)} if is_list else {kind: made[0]}

    @routes.put(f"/{path}/{{resource_id}}", name=f"update_{kind}", openapi_extra=request_schema(kind, creating=False))
    def update(resource_id: str, asker: CallerDep, body: JsonBody, if_revision: ExpectedRevision) -> dict[str, Any]:
        wanted = body_validation.to_update(kind, body)
        return {kind: store.update(kind, asker, resource_id, wanted, if_revision=if_revision)}

    @routes.delete(f"/{path}/{{resource_id}}", status_code=204, name=f"delete_{kind}")
    def delete(resource_id: str, asker: CallerDep, if_revision: ExpectedRevision) -> None:
        store.delete(kind, asker, resource_id, if_revision=if_revision)
