"""The metadata API, without its transport: a request in, an answer out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, KeysView, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ssl import RAND_bytes
from typing import Any, Protocol
from weakref import ref

import structlog

from openimds.identity.headers import INSTANCE_ID, REQUEST_ID, header_names, values
from openimds.metadata.decide import DocumentRequest, forbid_options, public_answer
from openimds.metadata.decision import (
    TRY_AGAIN_SENTENCE,
    Answer,
    AskVendors,
    Refusal,
    StorePassword,
    not_found,
    refusal_answer,
)
from openimds.metadata.etags import unless_known, with_etag
from openimds.metadata.password import password_refused, password_stored
from openimds.metadata.paths import MalformedTargetError, Path, parse_path
from openimds.metadata.reading import DocumentSettings
from openimds.metadata.sessions import HOP_LIMIT
from openimds.metadata.vendor_data import vendor_data2, vendor_question
from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.web.guest.asking import Asker, Identification, NotServed
from openimds.web.guest.documents import Calendar, Documents
from openimds.web.guest.elsewhere import Elsewhere, Reply
from openimds.web.guest.messages import GuestRequest, GuestResponse
from openimds.web.guest.records import Records
from openimds.web.guest.rendered import Rendered, Seeds
from openimds.web.guest.repeating import Again, Lease, Repeat
from openimds.web.guest.request_ids import new_request_id, request_id
from openimds.web.guest.request_log import (
    REQUEST_ANSWERED,
    REQUEST_GIVEN_UP,
    Line,
    RequestLog,
    StructuredLog,
    logged_path,
)
from openimds.web.guest.sessions import Sessions, TokenSettings
from openimds.web.guest.tally import TALLY
from openimds.web.guest.vendors import Vendors

log = structlog.get_logger(__name__)

_READS = ("GET", "HEAD")
_REQUEST_ID = REQUEST_ID.encode()
_ANNOUNCES_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_CHANGES_THE_ANSWER = _ANNOUNCES_A_BODY | {b"x-aws-ec2-metadata-token", b"if-none-match"}
"""A request with one of these is judged anew each time."""


class Passwords(Protocol):
    """Where passwords are stored; asked of where the asker has nobody elsewhere who does."""

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """False when the instance has one. Raises NotFound, StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is different at every request."""

    random_bytes: Callable[[int], bytes] = os.urandom
    many_random_bytes: Callable[[int], bytes] = RAND_bytes
    """For random seeds, thousands at a time: OpenSSL's generator, AES-256 in counter mode, takes a fifteenth of the
    kernel's time. It is seeded, every 7 minutes anew, from the kernel, and a forked process has another."""
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(slots=True)
class _Trace:
    """What the log line says of a request, as far as it came."""

    request_id: str
    started: float
    header_names: KeysView[bytes]
    """In lower case."""
    instance_id: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    asker: Asker | None = None
    rendered: Rendered | None = None
    """What the answer was taken from, when it can be again."""


class GuestService:
    """`await service.handle(request)`. Of one event loop."""

    def __init__(  # noqa: PLR0913 - the parts that a daemon joins
        self,
        *,
        identification: Identification,
        records: Records,
        passwords: Passwords | None,
        settings: DocumentSettings,
        executor: Executor,
        vendors: Vendors | None = None,
        tokens: TokenSettings | None = None,
        world: World | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        """Without `tokens` there are none: their calls are answered as nova does, which does not know them.

        Without `passwords` none is stored here: askers bring with them who does.
        """
        self._identification = identification
        self._passwords = passwords
        self._settings = settings
        self._executor = executor
        self._vendors = vendors
        self._world = world = world or World()
        self._records = records
        self._calendar = Calendar(world.utc_now)
        self._documents = Documents(records, settings, calendar=self._calendar, random_bytes=world.random_bytes)
        self._log = request_log or StructuredLog()
        self._seeds = Seeds(world.many_random_bytes)
        self._lease = Lease()
        tokens = tokens or TokenSettings()
        self._is_behind_agent = tokens.is_behind_agent
        self._sessions = Sessions(
            tokens,
            settings.policy,
            now=lambda: world.utc_now().timestamp(),
            random_bytes=world.random_bytes,
        )

    def serve(self, request: GuestRequest) -> GuestResponse | Coroutine[Any, Any, GuestResponse]:
        """The answer; where it takes what is not in memory, later. Never raises: whatever goes wrong becomes an answer
        here, and nowhere else.
        """
        # Where guests come themselves an id in the request is of their own making, and could be another's.
        followed_as = request_id(request.headers) if self._is_behind_agent else new_request_id()
        trace = _Trace(followed_as, time.monotonic(), header_names(request.headers))
        try:
            answer = self._begin(request, trace)
        except Exception as error:  # noqa: BLE001 - see above
            answer = self._excuse(error, request, trace)
        if isinstance(answer, Answer):
            return self._finish(request, answer, trace)
        return self._finish_later(request, answer, trace)

    async def handle(self, request: GuestRequest) -> GuestResponse:
        """As `serve`, for who can wait."""
        answer = self.serve(request)
        return answer if isinstance(answer, GuestResponse) else await answer

    async def _finish_later(
        self, request: GuestRequest, coming: Coroutine[Any, Any, Answer], trace: _Trace
    ) -> GuestResponse:
        try:
            answer = await self._here_or_elsewhere(request, coming, trace)
        except asyncio.CancelledError:
            # Its guest hung up, or waited too long; what was asked may have been done all the same.
            self._write_line(request, REQUEST_GIVEN_UP, trace, {})
            raise
        except Exception as error:  # noqa: BLE001 - see `serve`
            answer = self._excuse(error, request, trace)
        return self._finish(request, answer, trace)

    async def _here_or_elsewhere(
        self, request: GuestRequest, coming: Coroutine[Any, Any, Answer], trace: _Trace
    ) -> Answer | Reply:
        try:
            return await coming
        except Elsewhere as elsewhere:
            trace.instance_id, trace.asker = elsewhere.instance_id, None
            trace.facts = {**elsewhere.facts, "forwarded": True}
            try:
                return await elsewhere.ask(request, trace.request_id)
            finally:
                if request.method not in _READS:
                    # It may have changed (its password): whoever asks next, before the news of it, is not told otherwise.
                    self._records.forget_instance(elsewhere.instance_id)

    def _excuse(self, error: Exception, request: GuestRequest, trace: _Trace) -> Answer:
        """What the guest is told instead of an answer."""
        if isinstance(error, Refusal):
            trace.facts = getattr(error, "facts", trace.facts)
            return refusal_answer(error, _accept(request))
        if isinstance(error, StoreUnavailable):
            log.warning("a request could not be answered", reason=error.message, request_id=trace.request_id)
            return refusal_answer(_try_again_later(), _accept(request))
        log.error("a request failed", request_id=trace.request_id, instance_id=trace.instance_id, exc_info=error)
        return refusal_answer(Refusal(500, TRY_AGAIN_SENTENCE), _accept(request))

    def retire(self) -> None:
        """Another service takes over: what this one prepared is not given again."""
        self._lease.valid = False

    def _begin(self, request: GuestRequest, trace: _Trace) -> Answer | Coroutine[Any, Any, Answer]:
        """Raises Refusal."""
        forbid_options(request.method)
        try:
            path = parse_path(request.target)
        except MalformedTargetError as error:
            raise Refusal(400, str(error)) from None
        asker = None if path.is_public else self._identification.at_once(request)
        if asker is None:
            return self._identify(request, path, trace)
        return self._decide(request, path, asker, trace)

    async def _identify(self, request: GuestRequest, path: Path, trace: _Trace) -> Answer:
        asker = await self._asker_of_public(request) if path.is_public else await self._identification.asker(request)
        if asker is None:
            return _reread(public_answer(request.method), request)
        answer = self._decide(request, path, asker, trace)
        return answer if isinstance(answer, Answer) else await answer

    def _decide(
        self, request: GuestRequest, path: Path, asker: Asker, trace: _Trace
    ) -> Answer | Coroutine[Any, Any, Answer]:
        trace.instance_id, trace.asker, trace.facts = asker.instance.id, asker, asker.facts
        token = self._sessions.admit(request, path, asker.instance)
        if token is not None:
            return token
        has_body = not trace.header_names.isdisjoint(_ANNOUNCES_A_BODY)
        asked = DocumentRequest(method=request.method, path=path, body=request.body if has_body else None)
        found = self._documents.find(asked, asker)
        if isinstance(found, Rendered):
            trace.rendered = found
            return _reread(found.again(self._seeds), request)
        if isinstance(found, Answer):
            return _reread(found, request)
        return self._carry_out(found, asker, request)

    async def _asker_of_public(self, request: GuestRequest) -> Asker | None:
        """`/` is everybody's; but an instance whose endpoint is switched off is not told even that."""
        if self._is_behind_agent and not values(request.headers, INSTANCE_ID):
            return None
        try:
            return await self._identification.asker(request)
        except NotServed:
            raise
        except (Refusal, StoreUnavailable):
            return None

    async def _carry_out(self, wanted: StorePassword | AskVendors, asker: Asker, request: GuestRequest) -> Answer:
        if asker.elsewhere is not None:
            raise Elsewhere(asker.elsewhere, asker.instance.id, asker.facts)
        match wanted:
            case StorePassword(text):
                return _reread(await self._store_password(asker.instance.id, text), request)
            case AskVendors():
                said = await self._vendors.ask(vendor_question(asker.instance)) if self._vendors else {}
                return _reread(vendor_data2(self._settings, said), request)

    async def _store_password(self, instance_id: str, text: str) -> Answer:
        loop = asyncio.get_running_loop()
        if self._passwords is None:
            raise Refusal(503, "No passwords can be stored here.")
        try:
            stored = await loop.run_in_executor(self._executor, self._passwords.set_password_once, instance_id, text)
        except NotFound:
            raise not_found() from None
        self._records.forget_instance(instance_id)
        if not stored:
            raise password_refused()
        return password_stored()

    def _finish(self, request: GuestRequest, answer: Answer | Reply, trace: _Trace) -> GuestResponse:
        TALLY.answered(answer.status, time.monotonic() - trace.started)
        became = {"status": answer.status, "bytes": len(answer.body)}
        line = self._write_line(request, REQUEST_ANSWERED, trace, became)
        if not isinstance(answer, Answer):
            return GuestResponse(
                status=answer.status, headers=tuple(answer.headers), body=answer.body, hop_limit=answer.hop_limit
            )
        return self._response(answer, trace, self._again(request, answer, trace, line))

    def _response(self, answer: Answer, trace: _Trace, again: Again | None) -> GuestResponse:
        headers, hop_limit = [(b"Content-Type", answer.content_type.encode())], None
        for name, value in answer.headers:
            if name == HOP_LIMIT and not self._is_behind_agent:
                hop_limit = int(value)  # done here, where no agent does it, and not told to the guest
            else:
                headers.append((name.encode(), value.encode()))
        headers.append((_REQUEST_ID, trace.request_id.encode()))
        return GuestResponse(
            status=answer.status, headers=tuple(headers), body=answer.body, again=again, hop_limit=hop_limit
        )

    def _write_line(self, request: GuestRequest, event: str, trace: _Trace, became: Mapping[str, object]) -> Line:
        """→ what writes such a line again."""
        asked = {"method": request.method, "path": logged_path(request.target)}
        line = self._log.line(event, {"instance_id": trace.instance_id, **trace.facts, **asked, **became})
        line(trace.request_id, (time.monotonic() - trace.started) * 1000)
        return line

    def _again(self, request: GuestRequest, answer: Answer, trace: _Trace, line: Line) -> Again | None:
        asker, rendered = trace.asker, trace.rendered
        if asker is None or rendered is None or (request.method, answer.status) != ("GET", 200):
            return None
        if not asker.secret and asker.still is None:
            return None
        policy = self._sessions.policy(asker.instance)
        if policy.root_only or policy.user_data_minutes:
            return None  # the bytes tell neither the port nor the hour
        if not trace.header_names.isdisjoint(_CHANGES_THE_ANSWER):
            return None
        return Repeat(
            record=ref(asker.record),
            rendered=ref(rendered),
            seeds=self._seeds,
            line=line,
            lease=self._lease,
            until=self._calendar.today().ends_at,
            secret=asker.secret,
            still=asker.still,
            takes_ids=self._is_behind_agent,
        ).again


def _reread(answer: Answer, request: GuestRequest) -> Answer:
    """With an ETag; 304 for who has it already."""
    if request.method not in _READS:
        return answer
    return unless_known(with_etag(answer), ",".join(values(request.headers, "If-None-Match")))


def _accept(request: GuestRequest) -> str | None:
    return ",".join(values(request.headers, "Accept")) or None


def _try_again_later() -> Refusal:
    return Refusal(503, "The metadata cannot be read just now. Please try your request again.", (("Retry-After", "1"),))
