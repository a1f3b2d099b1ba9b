"""What metadata agents answer guests from: whole instance records, whom changes concern, what documents are rendered with.

Records hold user data and passwords: they are for agents alone, kept by nobody on the way, and never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
import structlog
from fastapi import APIRouter, Depends, Header, Query, Response
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import require_agent_role
from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.control_api.watch.schemas import InstanceIds
from openimds.metadata.context import DocumentSettings, settings_to_json
from openimds.resources.instance import ChangeSet, Instance

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


def router(parts: InstanceRecordService) -> APIRouter:
    """Below `/openimds/v1`, beside the watch."""
    routes = APIRouter(tags=["watch"], dependencies=[Depends(require_agent_role)])
    published = _PublishedSettings(parts.settings)
    _records(routes, parts.records)
    _news(routes, parts, published)
    _settings(routes, published)
    return routes


def _records(routes: APIRouter, records: InstanceRecords) -> None:
    @routes.post("/instances")
    def instances(body: InstanceIds) -> Response:
        revision, found = records.instances(body.instance_ids)
        return _json({"revision": revision, "instances": _encoded_records(found)})


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
        return _json(
            {
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


def _json(value: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=_NO_STORE)
