"""`/os-keypairs`: a user's public keys, brought along or made here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from openimds.control_api.compute.key_generation import GeneratedKey, fingerprint, generate_ssh_key, generate_x509_key
from openimds.control_api.compute.microversions import Microversion, Version
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.compute.schemas import KeypairCreate
from openimds.control_api.context import AuthenticatedCaller, RequestContext
from openimds.control_api.pagination import Paging, next_link, paginate
from openimds.resources.compute import Keypair
from openimds.resources.errors import BadRequest, Forbidden


def router(service: ComputeService) -> APIRouter:
    routes = APIRouter()
    keypairs = service.store.keypairs

    @routes.get("/os-keypairs")
    def list_keypairs(
        request: Request, caller: AuthenticatedCaller, version: Version, paging: Paging, user_id: str | None = None
    ) -> dict[str, Any]:
        found = paginate(keypairs.list(_owner(caller, version, user_id)), paging, key=lambda item: item.name)
        shown: dict[str, Any] = {"keypairs": [{"keypair": _brief(item, version)} for item in found.items]}
        if found.more and version >= (2, 35):
            link = next_link(f"{service.url}/os-keypairs", request.query_params.multi_items(), found.items[-1].name)
            shown["keypairs_links"] = [link]
        return shown

    @routes.post("/os-keypairs")
    def create_keypair(caller: AuthenticatedCaller, version: Version, body: KeypairCreate) -> Response:
        asked = body.keypair
        _check_version(asked.model_fields_set, version)
        user_id = _owner(caller, version, asked.user_id)
        now = datetime.now(UTC).replace(tzinfo=None)
        name = asked.name.strip()
        if not name:
            raise BadRequest("keypair.name", "must not be blank")
        key = _key(asked.type, asked.public_key, version, user_id, now)
        made = Keypair(
            user_id=user_id,
            name=name,
            type=asked.type,
            public_key=key.public_key,
            fingerprint=key.fingerprint,
            created_at=now,
        )
        keypairs.create(made)
        shown = {**_brief(made, version), "user_id": user_id}
        if key.private_key:
            shown["private_key"] = key.private_key
        return JSONResponse({"keypair": shown}, 201 if version >= (2, 2) else 200)

    @routes.get("/os-keypairs/{name}")
    def show_keypair(
        caller: AuthenticatedCaller, version: Version, name: str, user_id: str | None = None
    ) -> dict[str, Any]:
        found = keypairs.get(_owner(caller, version, user_id), name)
        kept = {
            "user_id": found.user_id,
            "created_at": found.created_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
            "deleted": False,
            "deleted_at": None,
            "updated_at": None,
            "id": 0,
        }
        return {"keypair": {**_brief(found, version), **kept}}

    @routes.delete("/os-keypairs/{name}")
    def delete_keypair(
        caller: AuthenticatedCaller, version: Version, name: str, user_id: str | None = None
    ) -> Response:
        keypairs.delete(_owner(caller, version, user_id), name)
        return Response(status_code=204 if version >= (2, 2) else 202)

    return routes


def _owner(caller: RequestContext, version: Microversion, user_id: str | None) -> str:
    """Oneself; an administrator may name somebody else, from 2.10 on."""
    if user_id is None or version < (2, 10) or user_id == caller.user_id:
        return caller.user_id
    if not caller.is_admin:
        raise Forbidden("Policy doesn't allow os_compute_api:os-keypairs to be performed for another user.")
    return user_id


def _check_version(named: set[str], version: Microversion) -> None:
    for field, since in (("type", Microversion(2, 2)), ("user_id", Microversion(2, 10))):
        if field in named and version < since:
            raise BadRequest(f"keypair.{field}", f"is known from microversion {since} on, this is {version}")
    if "public_key" not in named and version >= (2, 92):
        raise BadRequest("keypair.public_key", "keypair.public_key: is required from microversion 2.92 on")


def _key(kind: str, public_key: str | None, version: Microversion, user_id: str, now: datetime) -> GeneratedKey:
    if public_key is not None:
        text = public_key.strip()
        return GeneratedKey(text, "", fingerprint(kind, text))
    if version >= (2, 92):
        raise BadRequest("keypair.public_key", "keypair.public_key: is required from microversion 2.92 on")
    makers: dict[str, Callable[[], GeneratedKey]] = {
        "ssh": generate_ssh_key,
        "x509": lambda: generate_x509_key(user_id, now),
    }
    return makers[kind]()


def _brief(item: Keypair, version: Microversion) -> dict[str, Any]:
    shown = {"name": item.name, "public_key": item.public_key, "fingerprint": item.fingerprint}
    return {**shown, "type": item.type} if version >= (2, 2) else shown
