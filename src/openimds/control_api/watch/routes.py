"""The extension for agents: list, watch, report (docs/design/watch.md)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import require_agent_role
from openimds.control_api.watch.instance_records import InstanceRecordService
from openimds.control_api.watch.instance_records import router as instances_router
from openimds.control_api.watch.long_poll import ChangeNotifier, WatchSource
from openimds.control_api.watch.schemas import HeartbeatReport, ProvisionedReport, ServerReport, UnpluggedReport
from openimds.resources.errors import BadRequest, PayloadTooLarge

MAX_WAIT_SECONDS = 60
MAX_CONSOLE_BYTES = 256 * 1024


class AgentReports(Protocol):
    """What agents tell."""

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None: ...

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None: ...

    def report_server(self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None) -> None: ...

    def put_console(self, server_id: str, text: str) -> None: ...

    def heartbeat(self, binary: str, host: str, report: Mapping[str, Any]) -> None: ...


class WatchService(WatchSource, AgentReports, Protocol):
    """What agents ask and tell: `store.watch.WatchStore` is one."""

    def snapshot(self, kinds: Sequence[str]) -> tuple[int, dict[str, list[Any]]]: ...

    def changes(self, after: int, kinds: Sequence[str]) -> tuple[int, list[dict[str, Any]]]: ...


def router(store: WatchService, bell: ChangeNotifier | None = None) -> APIRouter:
    """Everything below `/openimds/v1`: mount it there. Closing the bell ends all long polls."""
    routes = APIRouter(tags=["watch"], dependencies=[Depends(require_agent_role)])
    _watching(routes, store, bell or ChangeNotifier(store))
    _ports(routes, store)
    _servers(routes, store)
    return routes


def _watching(routes: APIRouter, store: WatchService, bell: ChangeNotifier) -> None:
    @routes.get("/snapshot")
    def snapshot(kinds: str) -> Response:
        revision, objects = store.snapshot(_kinds(kinds))
        return _json({"revision": revision, "objects": objects})

    @routes.get("/changes")
    async def changes(
        kinds: str,
        after: Annotated[int, Query(ge=0)],
        timeout: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 25,
    ) -> Response:
        wanted = _kinds(kinds)
        revision, found = await _awaited(store, bell, wanted, after, timeout)
        return _json({"revision": revision, "changes": found})


def _json(value: Mapping[str, Any]) -> Response:
    # FastAPI would look at each of a hundred thousand values to find out what it is.
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _awaited(
    store: WatchService, bell: ChangeNotifier, kinds: list[str], after: int, timeout_seconds: float
) -> tuple[int, list[dict[str, Any]]]:
    """The first changes after `after`; none when the time is over, or this program is about to end."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        revision, found = await run_in_threadpool(store.changes, after, kinds)
        left = deadline - time.monotonic()
        if found or left <= 0 or bell.is_closed:
            return revision, found
        await bell.wait(frozenset(kinds), revision, left)


def _ports(routes: APIRouter, store: AgentReports) -> None:
    @routes.post("/ports/{port_id}/provisioned", status_code=204)
    def port_provisioned(port_id: str, body: ProvisionedReport) -> None:
        store.port_provisioned(port_id, body.entity, body.binding_generation)

    @routes.post("/ports/{port_id}/unplugged", status_code=204)
    def port_unplugged(port_id: str, body: UnpluggedReport | None = None) -> None:
        store.port_unplugged(port_id, body.binding_generation if body else None)

    @routes.put("/agents/{binary}/{host}", status_code=204)
    def heartbeat(binary: str, host: str, body: HeartbeatReport) -> None:
        for name, value in (("binary", binary), ("host", host)):
            if len(value) > 255:
                raise BadRequest(name, f"{name}: it has more than 255 characters.")
        store.heartbeat(binary, host, body.model_dump())


def _servers(routes: APIRouter, store: AgentReports) -> None:
    @routes.put("/servers/{server_id}/report", status_code=204)
    def report_server(server_id: str, body: ServerReport) -> None:
        store.report_server(
            server_id, boot_generation=body.boot_generation, power_state=body.power_state, fault=body.fault
        )

    @routes.put("/servers/{server_id}/console", status_code=204)
    async def put_console(server_id: str, request: Request) -> None:
        text = _text(await _body(request))
        await run_in_threadpool(store.put_console, server_id, text)


def _text(body: bytes) -> str:
    """A guest prints what it likes; what is no UTF-8, and NUL, which PostgreSQL cannot keep, is shown as replaced."""
    text = body.decode("utf-8", "replace").replace("\x00", "\ufffd")
    return text.encode()[-MAX_CONSOLE_BYTES:].decode("utf-8", "ignore")


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_CONSOLE_BYTES:
            raise PayloadTooLarge(f"The console's tail may have {MAX_CONSOLE_BYTES} bytes; send its end.")
    return body


def _kinds(text: str) -> list[str]:
    kinds = [kind for kind in text.split(",") if kind]
    if not kinds:
        raise BadRequest("kinds", "kinds: name at least one kind, as in kinds=port,subnet.")
    return list(dict.fromkeys(kinds))


__all__ = ["ChangeNotifier", "InstanceRecordService", "WatchService", "instances_router", "router"]
