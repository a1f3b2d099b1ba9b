"""The bodies of what agents report.

What metadata agents answer guests from: whole instance records, whom changes concern, what documents are rendered with.

Records hold user data and passwords: they are for agents alone, kept by nobody on the way, and never logged.

The extension for agents: list, watch, report (docs/design/watch.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import msgspec
import structlog
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import require_agent_role
from openimds.control_api.watch.long_poll import ChangeNotifier, WatchSource
from openimds.metadata.context import DocumentSettings, settings_to_json
from openimds.resources.errors import BadRequest, PayloadTooLarge
from openimds.resources.instance import ChangeSet, Instance

MAX_FAULT = 4096
MAX_IDS = 1000


def _utc(moment: datetime) -> datetime:
    """UTC without a zone, as the tables hold it."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


_Generation = Annotated[int, Field(ge=0, lt=2**31)]


class UnpluggedReport(BaseModel):
    """`{"binding_generation": 3}`: the binding that the report is about. Agents of release 0.1 do not name it."""

    model_config = ConfigDict(extra="forbid")
    binding_generation: _Generation | None = None


class ProvisionedReport(UnpluggedReport):
    """`{"entity": "l2", "binding_generation": 3}`"""

    entity: Literal["dhcp", "l2"]


class InstanceIds(BaseModel):
    """`{"instance_ids": ["7f…", …]}`"""

    model_config = ConfigDict(extra="forbid")
    instance_ids: Annotated[list[Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]], Field(max_length=MAX_IDS)]


class ServerReport(BaseModel):
    """What became of a boot."""

    model_config = ConfigDict(extra="forbid")
    boot_generation: int
    power_state: Literal["running", "stopped", "error"]
    fault: Annotated[str, Field(max_length=MAX_FAULT)] | None = None


class HeartbeatReport(BaseModel):
    """What an agent says of itself."""

    model_config = ConfigDict(extra="forbid")
    agent_type: Annotated[str, Field(min_length=1, max_length=255)]
    started_at: Annotated[datetime, AfterValidator(_utc)]
    configurations: dict[str, Any] = {}


log = structlog.get_logger(__name__)

MAX_WAIT_SECONDS = 60
SETTINGS_CHECK_SECONDS = 1.0
"""How often a waiting poll looks whether the settings have changed."""
BATCH_SECONDS = 0.01
"""From the first change that a poll hears of until it reads them: in a storm, many become one answer."""
_NO_STORE = {"Cache-Control": "no-store"}


class InstanceRecords(Protocol):
    """`store.instances.InstanceStore` is one. Raises StoreUnavailable."""

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]: ...


class RecordChanges(Protocol):
    """`store.instance_changes.InstanceChanges` is one. Raises StoreUnavailable."""

    kinds: frozenset[str]
    """Of the changes that a document may show."""

    def after(self, revision: int | None) -> ChangeSet: ...


@dataclass(frozen=True, slots=True)
class InstanceRecordService:
    """What the extension is made of."""

    records: InstanceRecords
    news: RecordChanges
    settings: Callable[[], DocumentSettings]
    """The same object as long as nothing changed; cheap. Raises NotFound while they cannot be told."""
    bell: ChangeNotifier


def instances_router(parts: InstanceRecordService) -> APIRouter:
    """Below `/openimds/v1`, beside the watch."""
    routes = APIRouter(prefix="/openimds/v1", tags=["watch"], dependencies=[Depends(require_agent_role)])
    published = _PublishedSettings(parts.settings)
    _records(routes, parts.records)
    _news(routes, parts, published)
    _settings(routes, published)
    return routes


def _records(routes: APIRouter, records: InstanceRecords) -> None:
    @routes.post("/instances")
    def instances(body: InstanceIds) -> Response:
        revision, found = records.instances(body.instance_ids)
        return _no_store_json({"revision": revision, "instances": _encoded_records(found)})


def _encoded_records(found: Mapping[str, Instance | None]) -> dict[str, msgspec.Raw]:
    """Each as JSON. A record that cannot be encoded is left out, and agents forward its requests to the metadata API."""
    told = {}
    for instance_id, instance in found.items():
        try:
            told[instance_id] = msgspec.Raw(msgspec.json.encode(instance))
        except (TypeError, ValueError, OverflowError) as error:
            reason = type(error).__name__  # its text could quote the record
            log.warning("instance record encoding failed", instance_id=instance_id, reason=reason)
    return told


def _news(routes: APIRouter, parts: InstanceRecordService, published: _PublishedSettings) -> None:
    @routes.get("/instance_changes")
    async def instance_changes(
        after: Annotated[int | None, Query(ge=0)] = None,
        timeout: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 25,
        settings: str = "",
    ) -> Response:
        deadline = time.monotonic() + (timeout if after is not None else 0)
        touched = await run_in_threadpool(parts.news.after, after)
        while touched.is_nothing and settings in {"", published.digest()}:
            left = deadline - time.monotonic()
            if left <= 0 or parts.bell.is_closed:
                break
            if await parts.bell.wait(parts.news.kinds, touched.revision, min(left, SETTINGS_CHECK_SECONDS)):
                await asyncio.sleep(BATCH_SECONDS)
                touched = await run_in_threadpool(parts.news.after, touched.revision)
        return _no_store_json(
            {
                "store_id": touched.store_id,
                "revision": touched.revision,
                "everything": touched.everything,
                "instance_ids": touched.instance_ids,
                "port_ids": touched.port_ids,
                "network_ids": touched.network_ids,
                "settings": published.digest(),
            }
        )


def _settings(routes: APIRouter, published: _PublishedSettings) -> None:
    @routes.get("/guest_settings")
    def guest_settings(if_none_match: Annotated[str, Header()] = "") -> Response:
        digest, body = published.newest()
        headers = {**_NO_STORE, "ETag": f'"{digest}"'}
        if if_none_match == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)


class _PublishedSettings:
    """The settings as they are told, put into words once for each."""

    def __init__(self, settings: Callable[[], DocumentSettings]) -> None:
        self._settings = settings
        self._told: tuple[DocumentSettings, str, bytes] | None = None

    def newest(self) -> tuple[str, bytes]:
        """(digest, the answer's body). Raises NotFound."""
        settings = self._settings()
        told = self._told
        if told is None or told[0] is not settings:
            form = settings_to_json(settings)
            digest = hashlib.sha256(json.dumps(form).encode()).hexdigest()[:32]
            told = self._told = (settings, digest, json.dumps({"digest": digest, "settings": form}).encode())
        return told[1], told[2]

    def digest(self) -> str:
        return self.newest()[0]


def _no_store_json(value: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=_NO_STORE)


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

    def snapshot(self, kinds: Sequence[str]) -> tuple[str, int, dict[str, list[Any]]]: ...

    def changes(self, after: int, kinds: Sequence[str], store_id: str = "") -> tuple[int, list[dict[str, Any]]]: ...


def router(store: WatchService, bell: ChangeNotifier | None = None) -> APIRouter:
    """Everything below `/openimds/v1`: mount it there. Closing the bell ends all long polls."""
    routes = APIRouter(prefix="/openimds/v1", tags=["watch"], dependencies=[Depends(require_agent_role)])
    _watching(routes, store, bell or ChangeNotifier(store))
    _ports(routes, store)
    _servers(routes, store)
    return routes


def _watching(routes: APIRouter, store: WatchService, bell: ChangeNotifier) -> None:
    @routes.get("/snapshot")
    def snapshot(kinds: str) -> Response:
        store_id, revision, objects = store.snapshot(_kinds(kinds))
        return _json({"store_id": store_id, "revision": revision, "objects": objects})

    @routes.get("/changes")
    async def changes(
        kinds: str,
        after: Annotated[int, Query(ge=0)],
        timeout: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 25,
        store_id: Annotated[str, Query(max_length=36)] = "",
    ) -> Response:
        wanted = _kinds(kinds)
        revision, found = await _awaited(partial(store.changes, after, wanted, store_id), bell, wanted, timeout)
        return _json({"revision": revision, "changes": found})


def _json(value: Mapping[str, Any]) -> Response:
    # FastAPI would look at each of a hundred thousand values to find out what it is.
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _awaited(
    changes: Callable[[], tuple[int, list[dict[str, Any]]]],
    bell: ChangeNotifier,
    kinds: list[str],
    timeout_seconds: float,
) -> tuple[int, list[dict[str, Any]]]:
    """The first result of `changes` that has changes. None of them at the timeout, or when this program stops."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        revision, found = await run_in_threadpool(changes)
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
