"""Answering a request that is, but for its request id, byte for byte one that was answered before: the hot path.

What the HTTP server promises: the bytes are equal, so who asks, what, and with which signature is what was found good
the first time. What is checked here at every call: that nothing of it has changed since.

From an answer to what the guest is sent: its headers, its log line, and how it is given again.

What a guest is told instead of an answer, when something goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from weakref import ref

import structlog

from openimds.guest_identity.headers import REQUEST_ID, values
from openimds.http.messages import Replay, Request, Response
from openimds.imds.authenticators import AuthenticatedInstance
from openimds.imds.document_cache import Calendar
from openimds.imds.instance_cache import CacheEntry
from openimds.imds.metrics import METRICS
from openimds.imds.rendered_document import RandomSeeds, RenderedDocument
from openimds.imds.request_log import REQUEST_ANSWERED, REQUEST_GIVEN_UP, Line, RequestLog, logged_path, new_request_id
from openimds.imds.session_tokens import SessionTokens
from openimds.metadata.outcome import TRY_AGAIN_SENTENCE, Document, MetadataError, error_document
from openimds.metadata.session_policy import HOP_LIMIT
from openimds.resources.errors import StoreUnavailable


@dataclass(slots=True)
class ServiceGeneration:
    """Turns False for all that a service prepared, when another service with other settings takes over."""

    valid: bool = True


@dataclass(slots=True, kw_only=True)  # frozen ones take three times as long to make
class CachedResponse:
    """An answer to be given again and again."""

    record: ref[CacheEntry]
    rendered: ref[RenderedDocument]
    """Not held by this: what a guest asked for once, of a record that is gone, would take memory for ever."""
    seeds: RandomSeeds
    line: Line
    lease: ServiceGeneration
    until: float
    """Seconds since the epoch: documents tell what day it is."""
    secret: str
    """The name of the one that signed it; empty: none did."""
    still: Callable[[], bool] | None = None
    """Does the same one ask, and may it?"""
    takes_ids: bool = True
    """The request's id is of the hop before. False: it is the guest's own, and not taken."""

    def replay(self, given: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
        # What is called stands in variables: calling it where it is takes twice as long.
        record_now, rendered_now, still, line = self.record, self.rendered, self.still, self.line
        started = time()
        record, rendered = record_now(), rendered_now()
        if record is None or rendered is None or not record.good or not self.lease.valid or started >= self.until:
            return None
        if still is not None and not still():
            return None
        record.used = True
        if given and self.takes_ids:
            request_id, shown_id = given, given.decode()
        else:
            shown_id = new_request_id()
            request_id = shown_id.encode()
        before, seed, after = rendered.before, b"", rendered.after
        if rendered.seed_bytes:
            seed = self.seeds.text(rendered.seed_bytes)
        else:
            before = rendered.answer.body
        seconds = time() - started
        if seconds < 0:
            seconds = 0.0  # the clock was set
        METRICS.repeated(self.secret, seconds)
        line(shown_id, seconds * 1000)
        return request_id, before, seed, after


ANNOUNCES_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_CHANGES_THE_ANSWER = ANNOUNCES_A_BODY | {b"x-aws-ec2-metadata-token", b"if-none-match"}
"""A request with one of these is judged anew each time."""
_REQUEST_ID = REQUEST_ID.encode()


@dataclass(slots=True)
class RequestTrace:
    """What is known of a request, as far as it came."""

    request_id: str
    started: float
    """time.monotonic"""
    header_names: KeysView[bytes]
    """In lower case."""
    instance_id: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    """For the log line."""
    asker: AuthenticatedInstance | None = None
    rendered: RenderedDocument | None = None
    """What the answer was taken from, when it can be again."""


class ResponseBuilder:
    """Of one service."""

    def __init__(
        self,
        *,
        calendar: Calendar,
        seeds: RandomSeeds,
        sessions: SessionTokens,
        request_log: RequestLog,
        is_behind_agent: bool,
    ) -> None:
        self._calendar = calendar
        self._seeds = seeds
        self._sessions = sessions
        self._log = request_log
        self._is_behind_agent = is_behind_agent
        self._lease = ServiceGeneration()

    def finish(self, request: Request, answer: Document | Response, trace: RequestTrace) -> Response:
        """Counted and logged; a reply from elsewhere stays as it is."""
        METRICS.answered(answer.status, monotonic() - trace.started)
        became = {"status": answer.status, "bytes": len(answer.body)}
        line = self._write_line(request, REQUEST_ANSWERED, trace, became)
        if isinstance(answer, Response):
            return answer
        return self._response(answer, trace, self._replay(request, answer, trace, line))

    def give_up(self, request: Request, trace: RequestTrace) -> None:
        """Its guest hung up, or waited too long; what was asked may have been done all the same."""
        self._write_line(request, REQUEST_GIVEN_UP, trace, {})

    def retire(self) -> None:
        """Nothing that was finished here is given again."""
        self._lease.valid = False

    def _response(self, answer: Document, trace: RequestTrace, replay: Replay | None) -> Response:
        headers, hop_limit = [(b"Content-Type", answer.content_type.encode())], None
        for name, value in answer.headers:
            if name == HOP_LIMIT and not self._is_behind_agent:
                hop_limit = int(value)  # done here, where no agent does it, and not told to the guest
            else:
                headers.append((name.encode(), value.encode()))
        headers.append((_REQUEST_ID, trace.request_id.encode()))
        return Response(
            status=answer.status, headers=tuple(headers), body=answer.body, replay=replay, hop_limit=hop_limit
        )

    def _write_line(self, request: Request, event: str, trace: RequestTrace, became: Mapping[str, object]) -> Line:
        """→ what writes such a line again."""
        asked = {"method": request.method, "path": logged_path(request.target)}
        line = self._log.line(event, {"instance_id": trace.instance_id, **trace.facts, **asked, **became})
        line(trace.request_id, (monotonic() - trace.started) * 1000)
        return line

    def _replay(self, request: Request, answer: Document, trace: RequestTrace, line: Line) -> Replay | None:
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
        return CachedResponse(
            record=ref(asker.record),
            rendered=ref(rendered),
            seeds=self._seeds,
            line=line,
            lease=self._lease,
            until=self._calendar.today().ends_at,
            secret=asker.secret,
            still=asker.still,
            takes_ids=self._is_behind_agent,
        ).replay


log = structlog.get_logger(__name__)


def error_response(error: Exception, request: Request, trace: RequestTrace) -> Document:
    """A Refusal in its own words; 503 while the store is away; 500, and the error in the log, for what nobody foresaw."""
    if isinstance(error, MetadataError):
        trace.facts = getattr(error, "facts", trace.facts)
        return error_document(error, _accept(request))
    if isinstance(error, StoreUnavailable):
        log.warning("a request could not be answered", reason=error.message, request_id=trace.request_id)
        return error_document(_try_again_later(), _accept(request))
    log.error("a request failed", request_id=trace.request_id, instance_id=trace.instance_id, exc_info=error)
    return error_document(MetadataError(500, TRY_AGAIN_SENTENCE), _accept(request))


def _accept(request: Request) -> str | None:
    return ",".join(values(request.headers, "Accept")) or None


def _try_again_later() -> MetadataError:
    return MetadataError(
        503, "The metadata cannot be read just now. Please try your request again.", (("Retry-After", "1"),)
    )
