"""The extension for agents at `/openimds/v1` (docs/design/watch.md).

Agents list and watch resources, and report their work. Metadata agents also read instance records, their changes, and the
document settings. Records contain user data and passwords: only agents can read them, responses are not cacheable, and the
log does not contain them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import msgspec
import structlog
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import require_agent_role
from openimds.control_api.routing import ServiceRouter
from openimds.control_api.watch.long_poll import ChangeNotifier, WatchSource
from openimds.metadata.context import DocumentSettings, settings_to_json
from openimds.resources.errors import BadRequest, PayloadTooLarge
from openimds.resources.instance import ChangeSet, Instance
from openimds.resources.query import StorePosition

log = structlog.get_logger(__name__)

MAX_WAIT_SECONDS = 60
SETTINGS_CHECK_SECONDS = 1.0
"""Interval in which a waiting poll checks the settings."""
BATCH_SECONDS = 0.01
"""Delay between the wake-up of a poll and its read of the changes. It combines the changes of a burst in one response."""
MAX_CONSOLE_BYTES = 256 * 1024
MAX_FAULT_CHARS = 4096
MAX_IDS = 1000
_NO_STORE = {"Cache-Control": "no-store"}


def _utc(moment: datetime) -> datetime:
    """Converts to UTC without a zone, the form of the tables."""
    try:
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except OverflowError as error:
        raise ValueError("is not between the years 1 and 9999 in UTC") from error


_Generation = Annotated[int, Field(ge=0, lt=2**31)]


class UnpluggedReport(BaseModel):
    """`{"binding_generation": 3}`: the binding that the report is about. Agents of release 0.1 do not send it."""

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
    """The result of a boot."""

    model_config = ConfigDict(extra="forbid")
    boot_generation: _Generation
    power_state: Literal["running", "stopped", "error"]
    fault: Annotated[str, Field(max_length=MAX_FAULT_CHARS)] | None = None


class HeartbeatReport(BaseModel):
    """The description of an agent in its heartbeat."""

    model_config = ConfigDict(extra="forbid")
    agent_type: Annotated[str, Field(min_length=1, max_length=255)]
    started_at: Annotated[datetime, AfterValidator(_utc)]
    configurations: dict[str, Any] = {}


class InstanceRecordStore(Protocol):
    """Reads instance records from the store. Raises StoreUnavailable."""

    def instances(self, instance_ids: Collection[str]) -> tuple[int, dict[str, Instance | None]]: ...


class RecordChanges(Protocol):
    """Reads the instances that changed from the change log. Raises StoreUnavailable."""

    kinds: frozenset[str]
    """The kinds of objects whose changes can change a document."""

    def after(self, revision: int | None) -> ChangeSet: ...


@dataclass(frozen=True, slots=True)
class InstanceRecordService:
    """The objects that the routes of instance records use. programs/control_api/wiring.py creates them."""

    records: InstanceRecordStore
    changes: RecordChanges
    settings: Callable[[], DocumentSettings]
    """Returns the same object until the settings change, without I/O in most calls. Raises NotFound if they are invalid."""
    notifier: ChangeNotifier


def instances_router(service: InstanceRecordService) -> APIRouter:
    """The routes of instance records, for metadata agents."""
    routes = ServiceRouter(prefix="/openimds/v1", tags=["watch"], dependencies=[Depends(require_agent_role)])
    published = _PublishedSettings(service.settings)
    _records(routes, service.records)
    _record_changes(routes, service, published)
    _settings(routes, published)
    return routes


def _records(routes: APIRouter, records: InstanceRecordStore) -> None:
    @routes.post("/instances")
    def instances(body: InstanceIds) -> Response:
        revision, found = records.instances(body.instance_ids)
        return _no_store_json({"revision": revision, "instances": _encoded_records(found)})


def _encoded_records(found: Mapping[str, Instance | None]) -> dict[str, msgspec.Raw]:
    """Encodes the records. A record that cannot be encoded is left out; agents forward its requests to the metadata API."""
    encoded = {}
    for instance_id, instance in found.items():
        try:
            encoded[instance_id] = msgspec.Raw(msgspec.json.encode(instance))
        except (TypeError, ValueError, OverflowError) as error:
            reason = type(error).__name__  # its text could quote the record
            log.warning("instance record encoding failed", instance_id=instance_id, reason=reason)
    return encoded


def _record_changes(routes: APIRouter, service: InstanceRecordService, published: _PublishedSettings) -> None:
    @routes.get("/instance_changes")
    async def instance_changes(
        after: Annotated[int | None, Query(ge=0)] = None,
        timeout: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 25,
        settings: str = "",
    ) -> Response:
        deadline = time.monotonic() + (timeout if after is not None else 0)
        changed = await run_in_threadpool(service.changes.after, after)
        known_epoch = changed.known_epoch
        while changed.is_empty and settings in {"", published.digest()}:
            left = deadline - time.monotonic()
            if left <= 0 or service.notifier.is_closed:
                break
            wait_seconds = min(left, SETTINGS_CHECK_SECONDS)
            if await service.notifier.wait(service.changes.kinds, changed.revision, wait_seconds):
                await asyncio.sleep(BATCH_SECONDS)
                changed = await run_in_threadpool(service.changes.after, changed.revision)
        return _no_store_json(
            {
                "store_id": changed.store_id,
                "revision": changed.revision,
                "epoch": changed.epoch,
                "known_epoch": known_epoch,
                "everything": changed.everything,
                "instance_ids": changed.instance_ids,
                "port_ids": changed.port_ids,
                "network_ids": changed.network_ids,
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
    """The document settings as JSON. They are encoded once for each settings object."""

    def __init__(self, settings: Callable[[], DocumentSettings]) -> None:
        self._settings = settings
        self._cached: tuple[DocumentSettings, str, bytes] | None = None

    def newest(self) -> tuple[str, bytes]:
        """(digest, response body). Raises NotFound."""
        settings = self._settings()
        cached = self._cached
        if cached is None or cached[0] is not settings:
            form = settings_to_json(settings)
            digest = hashlib.sha256(json.dumps(form).encode()).hexdigest()[:32]
            cached = self._cached = (settings, digest, json.dumps({"digest": digest, "settings": form}).encode())
        return cached[1], cached[2]

    def digest(self) -> str:
        return self.newest()[0]


def _no_store_json(value: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=_NO_STORE)


class AgentReports(Protocol):
    """Stores the reports of agents."""

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None: ...

    def port_unplugged(self, port_id: str, binding_generation: int | None = None) -> None: ...

    def report_server(self, server_id: str, *, boot_generation: int, power_state: str, fault: str | None) -> None: ...

    def put_console(self, server_id: str, text: str) -> None: ...

    def heartbeat(self, binary: str, host: str, report: Mapping[str, Any]) -> None: ...


class WatchService(WatchSource, AgentReports, Protocol):
    """The store that the watch needs."""

    def snapshot(
        self, kinds: Sequence[str], known_revision: int | None = None
    ) -> tuple[StorePosition, dict[str, list[Any]]]: ...

    def changes(
        self, after: int, kinds: Sequence[str], store_id: str = "", epoch: str = ""
    ) -> tuple[StorePosition, list[dict[str, Any]]]: ...


def router(store: WatchService, notifier: ChangeNotifier | None = None) -> APIRouter:
    """The routes of the watch and of reports. All long polls end when the notifier is closed."""
    routes = ServiceRouter(prefix="/openimds/v1", tags=["watch"], dependencies=[Depends(require_agent_role)])
    _watch(routes, store, notifier or ChangeNotifier(store))
    _ports(routes, store)
    _servers(routes, store)
    return routes


def _watch(routes: APIRouter, store: WatchService, notifier: ChangeNotifier) -> None:
    @routes.get("/snapshot")
    def snapshot(kinds: str, known_revision: Annotated[int | None, Query(ge=0, lt=2**63)] = None) -> Response:
        position, objects = store.snapshot(_kinds(kinds), known_revision)
        return _json({**asdict(position), "objects": objects})

    @routes.get("/changes")
    async def changes(
        kinds: str,
        after: Annotated[int, Query(ge=0, lt=2**63)],
        timeout: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 25,
        store_id: Annotated[str, Query(max_length=36)] = "",
        epoch: Annotated[str, Query(max_length=36)] = "",
    ) -> Response:
        wanted = _kinds(kinds)
        position, found = await _next_changes(
            partial(store.changes, after, wanted, store_id, epoch), notifier, wanted, timeout
        )
        return _json({"revision": position.revision, "epoch": position.epoch, "changes": found})


def _json(value: Mapping[str, Any]) -> Response:
    # FastAPI would inspect each of a hundred thousand values before it encodes them.
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _next_changes(
    changes: Callable[[], tuple[StorePosition, list[dict[str, Any]]]],
    notifier: ChangeNotifier,
    kinds: list[str],
    timeout_seconds: float,
) -> tuple[StorePosition, list[dict[str, Any]]]:
    """Calls `changes` until it returns changes. Returns (position, changes).

    Returns an empty list of changes after the timeout, or when the notifier is closed.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        position, found = await run_in_threadpool(changes)
        left = deadline - time.monotonic()
        if found or left <= 0 or notifier.is_closed:
            return position, found
        await notifier.wait(frozenset(kinds), position.revision, left)


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
    """Decodes console output. Invalid UTF-8 and NUL, which PostgreSQL cannot store, become U+FFFD."""
    text = body.decode("utf-8", "replace").replace("\x00", "\ufffd")
    return text.encode()[-MAX_CONSOLE_BYTES:].decode("utf-8", "ignore")


async def _body(request: Request) -> bytes:
    """Reads the body. Raises PayloadTooLarge as soon as it exceeds the limit."""
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
