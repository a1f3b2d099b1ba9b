"""Signs requests and forwards them to the metadata API, in both modes. Both directions have an allow-list of headers.

Identical GETs of one client that run at the same moment share one request to the metadata API. Identical means: the same
port, address, target and forwarded headers, so that two clients or two sessions never share. meta_data.json is never
shared, because each response has a new random seed. Responses are not cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import Headers, Upstream, UpstreamAwayError
from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity import headers as names
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.headers import (
    GUEST_FORWARDED,
    PRIVILEGED,
    TOKEN_HEADERS_PASSED,
    was_forwarded,
    was_privileged,
)
from openimds.guest_identity.port_match import Binding
from openimds.guest_identity.signature import sign
from openimds.http.messages import Request, Response
from openimds.metadata.outcome import MetadataError
from openimds.metadata.paths import MalformedTargetError, parse_path
from openimds.metadata.session_policy import HOP_LIMIT
from openimds.resources.network import Port

REQUEST_ID = names.REQUEST_ID.encode()
_NEW_EACH_TIME = "meta_data.json"
_HOP_LIMIT = HOP_LIMIT.lower().encode()
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})

_FROM_GUEST = frozenset(
    {
        b"accept",
        b"content-type",
        b"if-none-match",
        b"user-agent",
        b"x-aws-ec2-metadata-token",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)
"""No identity header is among them, in any spelling."""

_TO_GUEST = frozenset(
    {
        b"allow",
        b"cache-control",
        b"content-encoding",
        b"content-length",  # of a response to HEAD, because the HTTP server counts only bodies that it writes
        b"content-type",
        b"etag",
        b"retry-after",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)


class Forwarder:
    """Belongs to the event loop. `clock` returns monotonic seconds."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        secret: str,
        metrics: Metrics,
        throttled_log: ThrottledLog,
        clock: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._throttled_log = throttled_log
        self._clock = clock
        self._limiter = PerKeyLimiter()
        self._running: dict[Hashable, asyncio.Task[Response]] = {}
        self.secret = secret
        """The shared secret for signatures. A reload of the configuration replaces it."""

    async def forward(self, binding: Binding, headers: Headers, request: Request, request_id: str) -> Response:
        """Returns the response of the metadata API, or 405, 411 or 503. Never raises.

        `headers`: the request's headers as a namespace proxy sends them.
        """
        rejected = rejected_method(request)
        if rejected is not None:
            return _error(rejected, request_id)
        client = IdentifiedClient(port=binding.port, address=binding.source.address)
        signed = signed_headers(headers, client, self.secret, method=request.method)
        if not _is_shareable(request):
            return await self._send_in_turn(binding, request, signed, request_id)
        key = (binding.port.id, request.target, tuple(signed))
        task = self._running.get(key)
        if task is None:
            sending = self._send_in_turn(binding, request, signed, request_id)
            task = self._running[key] = asyncio.get_running_loop().create_task(sending)
            task.add_done_callback(lambda _task: self._running.pop(key, None))
        return _with_request_id(await asyncio.shield(task), request_id)  # others may wait for a cancelled request

    async def _send_in_turn(self, binding: Binding, request: Request, signed: Headers, request_id: str) -> Response:
        await self._limiter.take(binding.port.id)
        try:
            return await self._send(request, (*signed, (REQUEST_ID, request_id.encode())), request_id)
        finally:
            self._limiter.give_back(binding.port.id)

    async def _send(self, request: Request, headers: Headers, request_id: str) -> Response:
        began_at = self._clock()
        try:
            # Servers differ in where a target with a space ends.
            target = request.target.replace(b" ", b"%20")
            answer = await self._upstream.request(request.method, target, headers, request.body)
        except UpstreamAwayError as error:
            self._metrics.upstream_failures.inc()
            self._throttled_log.upstream_away(str(error))
            sentence = "The remote metadata server is temporarily unavailable. Please try again later."
            return _error(MetadataError(503, sentence, (("Retry-After", "1"),)), request_id)
        self._metrics.upstream_seconds.observe(self._clock() - began_at)
        self._throttled_log.upstream_answers()
        if answer.status == 403 and b"signature" in answer.body.lower():
            self._metrics.refused_signatures.inc()
            self._throttled_log.secrets_differ(str(self._upstream))
        response = guest_response(answer, request_id)
        # The hop limit is an option of a client's own TCP connection. A namespace proxy connects by a unix socket.
        return replace(response, hop_limit=_hop_limit(answer)) if request.peer else response


def rejected_method(request: Request) -> MetadataError | None:
    """Returns the error for a method that is neither answered nor forwarded."""
    if request.method in ("TRACE", "CONNECT"):
        return MetadataError(405, f"{request.method} is not allowed.", (("Allow", "GET, HEAD"),))
    if request.method == "POST" and not any(name.lower() in _BODY_HEADERS for name, _ in request.headers):
        return MetadataError(411, "A POST needs a Content-Length.")
    return None


def _is_shareable(request: Request) -> bool:
    if request.method != "GET" or request.body:
        return False
    try:
        parts = parse_path(request.target).parts
    except MalformedTargetError:
        return False
    return not parts or parts[-1] != _NEW_EACH_TIME


def _with_request_id(response: Response, request_id: str) -> Response:
    others = tuple((name, value) for name, value in response.headers if name != REQUEST_ID)
    return replace(response, headers=(*others, (REQUEST_ID, request_id.encode())))


def _hop_limit(answer: Response) -> int | None:
    for name, value in answer.headers:
        if name.lower() == _HOP_LIMIT and value.isdigit() and 1 <= int(value) <= 255:
            return int(value)
    return None


def _error(error: MetadataError, request_id: str) -> Response:
    headers = [(name.encode(), value.encode()) for name, value in error.headers]
    content_type = (b"Content-Type", b"text/plain; charset=UTF-8")
    return Response(
        status=error.status,
        headers=(content_type, *headers, (REQUEST_ID, request_id.encode())),
        body=error.sentence.encode(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedClient:
    """The port of a client, and the address that it uses."""

    port: Port
    address: Address


def signed_headers(
    guest_headers: Headers, client: IdentifiedClient, secret: str, *, method: str = "GET"
) -> list[tuple[bytes, bytes]]:
    """Returns the client's headers that may pass, and the signed identity. The request ID is not among them."""
    instance_id = client.port.device_id
    ours = (
        (names.FORWARDED_FOR, str(client.address)),
        (names.INSTANCE_ID, instance_id),
        (names.TENANT_ID, client.port.project_id),
        (names.SIGNATURE, sign(secret, instance_id)),
        *(((GUEST_FORWARDED, "1"),) if was_forwarded(guest_headers, own_addresses=1) else ()),
        *(((PRIVILEGED, "1"),) if was_privileged(guest_headers) else ()),
        *(((TOKEN_HEADERS_PASSED, "1"),) if method == "PUT" else ()),
    )
    passed = [(name, value) for name, value in guest_headers if name.lower() in _FROM_GUEST]
    return passed + [(name.encode(), value.encode("latin-1", "replace")) for name, value in ours]


def guest_response(answer: Response, request_id: str) -> Response:
    """Returns the metadata API's response as the client receives it. Status, body and content headers are unchanged."""
    return Response(
        status=answer.status,
        headers=(*_passed(answer.headers), (REQUEST_ID, request_id.encode())),
        body=answer.body,
    )


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() in _TO_GUEST]
