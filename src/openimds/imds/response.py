"""Responses of a metadata service: headers, log line, replay, and the responses for errors."""

from __future__ import annotations

from collections.abc import Callable, KeysView, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from weakref import ref

import structlog

from openimds.guest_identity.headers import REQUEST_ID, values
from openimds.http.messages import Replay, Request, Response
from openimds.imds.authenticators import AuthenticatedInstance, AuthError
from openimds.imds.document_cache import Calendar, RandomSeeds, RenderedDocument
from openimds.imds.instance_cache import CacheEntry
from openimds.imds.metrics import METRICS
from openimds.imds.rate_limit import UnknownClientLimiter
from openimds.imds.request_log import REQUEST_ANSWERED, REQUEST_GIVEN_UP, Line, RequestLog, new_request_id
from openimds.imds.session_tokens import PreviousHop
from openimds.metadata.imds_options import ImdsOptions
from openimds.metadata.outcome import TEXT, TRY_AGAIN_SENTENCE, Document, MetadataError, error_document
from openimds.metadata.session_policy import HOP_LIMIT
from openimds.resources.errors import StoreUnavailable


@dataclass(slots=True)
class HandlerGeneration:
    """The validity of all replays of one handler. It ends when a handler with other settings takes over."""

    is_valid: bool = True


@dataclass(slots=True, kw_only=True)  # a frozen dataclass takes three times as long to make
class CachedResponse:
    """Replays a response for a request whose bytes, except for its request ID, equal those of an earlier request.

    The HTTP server compares the bytes, so the client, the document and the signature are the same. `replay` checks that
    nothing else has changed since.
    """

    record: ref[CacheEntry]
    rendered: ref[RenderedDocument]
    """A weak reference: a document of a dropped record must not stay in memory."""
    seeds: RandomSeeds
    line: Line
    generation: HandlerGeneration
    until: float
    """Seconds since the epoch. Documents depend on the date."""
    secret: str
    """The name of the secret that signed the request. Empty if it is not signed."""
    is_current: Callable[[], bool] | None = None
    """Returns whether the source still belongs to this client, and the client is within its rate limit."""
    takes_ids: bool = True
    """True if the request ID is that of the previous hop, False if it is the client's own."""

    def replay(self, given: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
        # Local variables: calling an attribute takes twice as long.
        record_now, rendered_now, is_current, line = self.record, self.rendered, self.is_current, self.line
        started = time()
        record, rendered = record_now(), rendered_now()
        if (
            record is None
            or rendered is None
            or not record.is_valid
            or not self.generation.is_valid
            or started >= self.until
        ):
            return None
        if is_current is not None and not is_current():
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
            before = rendered.document.body
        seconds = time() - started
        if seconds < 0:
            seconds = 0.0  # the clock was set back
        METRICS.repeated(self.secret, seconds)
        line(shown_id, seconds * 1000)
        return request_id, before, seed, after


BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
_CHANGES_THE_ANSWER = BODY_HEADERS | {b"x-aws-ec2-metadata-token", b"if-none-match"}
"""Requests with one of these headers are not replayed."""
_REQUEST_ID = REQUEST_ID.encode()
_MAX_LOGGED_PATH = 200
_REJECTED = frozenset({400, 403, 405})
"""Statuses of malformed or forbidden requests, which count for a client's ban."""


@dataclass(slots=True)
class RequestTrace:
    """The facts of a request that are known so far."""

    request_id: str
    started: float
    """The value of time.monotonic at the start."""
    header_names: KeysView[bytes]
    """In lower case."""
    instance_id: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    """Fields of the log line."""
    authenticated: AuthenticatedInstance | None = None
    policy: ImdsOptions | None = None
    """The options of the instance."""
    rendered: RenderedDocument | None = None
    """The document of the response, if the response may be replayed."""
    is_unknown_client: bool = False


class ResponseBuilder:
    """Builds the responses of one handler."""

    def __init__(
        self,
        *,
        calendar: Calendar,
        seeds: RandomSeeds,
        request_log: RequestLog,
        previous_hop: PreviousHop,
        unknown_clients: UnknownClientLimiter | None,
    ) -> None:
        self._calendar = calendar
        self._seeds = seeds
        self._log = request_log
        self._is_direct = previous_hop is PreviousHop.CLIENT
        self._is_agent_next = previous_hop is PreviousHop.AGENT
        self._unknown_clients = unknown_clients
        self._generation = HandlerGeneration()

    def finish(self, request: Request, result: Document | Response, trace: RequestTrace) -> Response:
        """Counts, logs and builds the response. A forwarded response of the metadata API is returned unchanged."""
        METRICS.answered(result.status, monotonic() - trace.started)
        if self._unknown_clients is not None and (trace.is_unknown_client or result.status in _REJECTED):
            self._unknown_clients.count(request.listener, request.mac, request.peer)
        became = {"status": result.status, "bytes": len(result.body)}
        line = self._write_line(request, REQUEST_ANSWERED, trace, became)
        if isinstance(result, Response):
            return result
        return self._response(result, trace, self._replay(request, result, trace, line))

    def give_up(self, request: Request, trace: RequestTrace) -> None:
        """Logs a request whose client closed the connection. An action of the request, such as storing a password, may be
        complete.
        """
        self._write_line(request, REQUEST_GIVEN_UP, trace, {})

    def retire(self) -> None:
        """Ends the replay of all responses of this handler."""
        self._generation.is_valid = False

    def _response(self, document: Document, trace: RequestTrace, replay: Replay | None) -> Response:
        headers, hop_limit = [(b"Content-Type", document.content_type.encode())], None
        for name, value in document.headers:
            if name == HOP_LIMIT and not self._is_agent_next:
                # Only an agent reads the header. A namespace proxy cannot set the hop limit of a response.
                hop_limit = int(value) if self._is_direct else None
            else:
                headers.append((name.encode(), value.encode()))
        headers.append((_REQUEST_ID, trace.request_id.encode()))
        return Response(
            status=document.status, headers=tuple(headers), body=document.body, replay=replay, hop_limit=hop_limit
        )

    def _write_line(self, request: Request, event: str, trace: RequestTrace, became: Mapping[str, object]) -> Line:
        """Returns a writer of further lines for replays."""
        asked = {"method": request.method, "path": _logged_path(request.target)}
        line = self._log.line(event, {"instance_id": trace.instance_id, **trace.facts, **asked, **became})
        line(trace.request_id, (monotonic() - trace.started) * 1000)
        return line

    def _replay(self, request: Request, document: Document, trace: RequestTrace, line: Line) -> Replay | None:
        authenticated, rendered = trace.authenticated, trace.rendered
        if authenticated is None or rendered is None or (request.method, document.status) != ("GET", 200):
            return None
        if not authenticated.secret and authenticated.is_current is None:
            return None
        policy = trace.policy
        if policy is None or policy.root_only or policy.user_data_minutes:
            return None  # these options depend on the client's TCP port or on the time
        if not trace.header_names.isdisjoint(_CHANGES_THE_ANSWER):
            return None
        return CachedResponse(
            record=ref(authenticated.record),
            rendered=ref(rendered),
            seeds=self._seeds,
            line=line,
            generation=self._generation,
            until=self._calendar.today().ends_at,
            secret=authenticated.secret,
            is_current=authenticated.is_current,
            takes_ids=not self._is_direct,
        ).replay


log = structlog.get_logger(__name__)


def _logged_path(target: bytes) -> str:
    """Returns the target of a request without its query, truncated."""
    return target.split(b"?", 1)[0].decode("latin-1")[:_MAX_LOGGED_PATH]


def error_response(error: Exception, request: Request, trace: RequestTrace) -> Document:
    """Returns the response to a request that raised an error.

    A MetadataError has its own status and sentence. StoreUnavailable becomes 503. Any other error is logged, and becomes
    500.
    """
    if isinstance(error, AuthError):
        trace.facts, trace.is_unknown_client = error.facts, error.is_unknown_client
        if error.is_plain:
            return Document(error.status, TEXT, error.sentence.encode(), error.headers)
    if isinstance(error, MetadataError):
        return error_document(error, _accept(request))
    if isinstance(error, StoreUnavailable):
        log.warning("store unavailable for a request", reason=error.message, request_id=trace.request_id)
        return error_document(_try_again_later(), _accept(request))
    log.error("request failed", request_id=trace.request_id, instance_id=trace.instance_id, exc_info=error)
    return error_document(MetadataError(500, TRY_AGAIN_SENTENCE), _accept(request))


def _accept(request: Request) -> str | None:
    return ",".join(values(request.headers, "Accept")) or None


def _try_again_later() -> MetadataError:
    return MetadataError(
        503, "The metadata cannot be read just now. Please try your request again.", (("Retry-After", "1"),)
    )
