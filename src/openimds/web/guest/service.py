"""The metadata API, without its transport: a request in, an answer out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from openimds.identity.headers import INSTANCE_ID, REQUEST_ID, values
from openimds.metadata.decide import DocumentRequest, decide, forbid_options, public_answer
from openimds.metadata.decision import (
    TRY_AGAIN_SENTENCE,
    Answer,
    AskVendors,
    Decision,
    Refusal,
    StorePassword,
    not_found,
    refusal_answer,
)
from openimds.metadata.etags import unless_known, with_etag
from openimds.metadata.password import password_refused, password_stored
from openimds.metadata.paths import MalformedTargetError, parse_path
from openimds.metadata.reading import DocumentSettings, Reading
from openimds.metadata.vendor_data import vendor_data2, vendor_question
from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.resources.instance import Instance
from openimds.web.guest.asking import Asker, Identification
from openimds.web.guest.measures import REQUESTS, SECONDS
from openimds.web.guest.messages import GuestRequest, GuestResponse
from openimds.web.guest.request_ids import request_id
from openimds.web.guest.sessions import Sessions, TokenSettings
from openimds.web.guest.vendors import Vendors

log = structlog.get_logger(__name__)

_MAX_LOGGED_PATH = 200


class Passwords(Protocol):
    def set_password_once(self, instance_id: str, text: str) -> bool:
        """False when the instance has one. Raises NotFound, StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is different at every request."""

    random_bytes: Callable[[int], bytes] = os.urandom
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(slots=True)
class _Trace:
    """What the log line says of a request, as far as it came."""

    request_id: str
    started: float
    instance_id: str | None = None


class GuestService:
    """`await service.handle(request)`. Of one event loop."""

    def __init__(  # noqa: PLR0913 - the parts that a daemon joins
        self,
        *,
        identification: Identification,
        passwords: Passwords,
        settings: DocumentSettings,
        executor: Executor,
        vendors: Vendors | None = None,
        tokens: TokenSettings | None = None,
        world: World | None = None,
    ) -> None:
        """Without `tokens` there are none: their calls are answered as nova does, which does not know them."""
        self._identification = identification
        self._passwords = passwords
        self._settings = settings
        self._executor = executor
        self._vendors = vendors
        self._world = world = world or World()
        tokens = tokens or TokenSettings()
        self._is_behind_agent = tokens.is_behind_agent
        self._sessions = Sessions(
            tokens,
            settings.policy,
            now=lambda: world.utc_now().timestamp(),
            random_bytes=world.random_bytes,
        )

    async def handle(self, request: GuestRequest) -> GuestResponse:
        """Never raises: whatever goes wrong becomes an answer here, and nowhere else."""
        trace = _Trace(request_id(request.headers), time.monotonic())
        try:
            answer = await self._answer(request, trace)
        except Refusal as refusal:
            answer = refusal_answer(refusal, _accept(request))
        except StoreUnavailable as error:
            log.warning("a request could not be answered", reason=error.message, request_id=trace.request_id)
            answer = refusal_answer(_try_again_later(), _accept(request))
        except Exception:
            log.exception("a request failed", request_id=trace.request_id, instance_id=trace.instance_id)
            answer = refusal_answer(Refusal(500, TRY_AGAIN_SENTENCE), _accept(request))
        self._note(request, answer, trace)
        return _response(answer, trace)

    async def _answer(self, request: GuestRequest, trace: _Trace) -> Answer:
        forbid_options(request.method)
        try:
            path = parse_path(request.target)
        except MalformedTargetError as error:
            raise Refusal(400, str(error)) from None
        asker = await self._asker_of_public(request) if path.is_public else await self._identification.asker(request)
        if asker is None:
            return _reread(public_answer(request.method), request)
        trace.instance_id = asker.instance.id
        token = self._sessions.admit(request, path, asker.instance)
        if token is not None:
            return token
        asked = DocumentRequest(method=request.method, path=path, body=_body(request))
        decision = decide(asked, self._reading(asker))
        return _reread(await self._carry_out(decision, asker.instance), request)

    async def _asker_of_public(self, request: GuestRequest) -> Asker | None:
        """`/` is everybody's; but an instance whose endpoint is switched off is not told even that."""
        if self._is_behind_agent and not values(request.headers, INSTANCE_ID):
            return None
        try:
            return await self._identification.asker(request)
        except (Refusal, StoreUnavailable):
            return None

    def _reading(self, asker: Asker) -> Reading:
        return Reading(
            instance=asker.instance,
            settings=self._settings,
            today=self._world.utc_now().strftime("%Y-%m-%d"),
            address=asker.address,
            random_bytes=self._world.random_bytes,
        )

    async def _carry_out(self, decision: Decision, instance: Instance) -> Answer:
        match decision:
            case Answer():
                return decision
            case StorePassword(text):
                return await self._store_password(instance.id, text)
            case AskVendors():
                said = await self._vendors.ask(vendor_question(instance)) if self._vendors else {}
                return vendor_data2(self._settings, said)

    async def _store_password(self, instance_id: str, text: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._executor, self._passwords.set_password_once, instance_id, text)
        except NotFound:
            raise not_found() from None
        if not stored:
            raise password_refused()
        return password_stored()

    def _note(self, request: GuestRequest, answer: Answer, trace: _Trace) -> None:
        seconds = time.monotonic() - trace.started
        REQUESTS.labels(str(answer.status)).inc()
        SECONDS.observe(seconds)
        log.info(
            "request answered",
            request_id=trace.request_id,
            instance_id=trace.instance_id,
            method=request.method,
            path=_logged_path(request.target),
            status=answer.status,
            bytes=len(answer.body),
            ms=round(seconds * 1000, 2),
        )


def _body(request: GuestRequest) -> bytes | None:
    names = {name.lower() for name, _value in request.headers}
    return request.body if names & {b"content-length", b"transfer-encoding"} else None


def _reread(answer: Answer, request: GuestRequest) -> Answer:
    """With an ETag; 304 for who has it already."""
    if request.method not in ("GET", "HEAD"):
        return answer
    return unless_known(with_etag(answer), ",".join(values(request.headers, "If-None-Match")))


def _accept(request: GuestRequest) -> str | None:
    return ",".join(values(request.headers, "Accept")) or None


def _try_again_later() -> Refusal:
    return Refusal(503, "The metadata cannot be read just now. Please try your request again.", (("Retry-After", "1"),))


def _logged_path(target: bytes) -> str:
    return target.split(b"?", 1)[0].decode("latin-1")[:_MAX_LOGGED_PATH]


def _response(answer: Answer, trace: _Trace) -> GuestResponse:
    headers: Sequence[tuple[str, str]] = (
        ("Content-Type", answer.content_type),
        *answer.headers,
        (REQUEST_ID, trace.request_id),
    )
    return GuestResponse(
        status=answer.status,
        headers=tuple((name.encode(), value.encode()) for name, value in headers),
        body=answer.body,
    )
