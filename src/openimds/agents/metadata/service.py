"""One guest's request, from the namespace proxy's socket to the answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from openimds.agents.metadata.complaints import Complaints
from openimds.agents.metadata.edges import Answer, GuestRequest, Headers, Reply, Upstream, UpstreamAwayError
from openimds.agents.metadata.finder import Finder, NobodyError, NotKnownYetError
from openimds.agents.metadata.forwarding import Asker, headers_to_api, reply_of
from openimds.agents.metadata.measures import Measures
from openimds.identity.headers import REQUEST_ID, HeaderError, Origin, origin, values
from openimds.identity.source import Address, parse_address
from openimds.resources.network import Port

_log = structlog.get_logger(__name__)

_TEXT = (b"Content-Type", b"text/plain; charset=UTF-8")
_RETRY = (b"Retry-After", b"1")
_SHOWN_PATH_BYTES = 256
_MAX_REQUEST_ID_CHARS = 64


@dataclass(slots=True)
class _Followed:
    """A request on its way, and what is known of it so far, for its log line."""

    request_id: str
    facts: dict[str, Any] = field(default_factory=dict)


class MetadataService:
    """`answer` is the HTTP server's handler."""

    def __init__(
        self, finder: Finder, upstream: Upstream, *, secret: str, measures: Measures, clock: Callable[[], float]
    ) -> None:
        self._finder = finder
        self._upstream = upstream
        self._measures = measures
        self._clock = clock
        self.complaints = Complaints(clock)
        self.secret = secret
        """May be replaced while it runs: the next request is signed with the new one."""

    async def answer(self, request: GuestRequest) -> Reply:
        """The metadata API's answer, or a sentence of our own: 400, 404, 405, 411, 503."""
        began_at = self._clock()
        followed = _Followed(_request_id(request.headers))
        reply = await self._answer(request, followed)
        self._measures.requests.labels(str(reply.status)).inc()
        _log.info(
            "request answered",
            request_id=followed.request_id,
            **followed.facts,
            method=request.method,
            path=request.target[:_SHOWN_PATH_BYTES].decode("latin-1"),
            status=reply.status,
            milliseconds=round((self._clock() - began_at) * 1000, 1),
        )
        return reply

    async def _answer(self, request: GuestRequest, followed: _Followed) -> Reply:
        refusal = _refused_method(request)
        if refusal is not None:
            return refusal
        try:
            where, address = _origin(request.headers, followed)
            port = await self._find(where, address)
        except HeaderError as error:
            self._measures.lookups.labels("malformed").inc()
            return _sentence(400, str(error))
        except NobodyError as error:
            followed.facts["reason"] = str(error)
            return _sentence(404, "The resource could not be found.")
        except NotKnownYetError as error:
            followed.facts["reason"] = str(error)
            return _sentence(503, "It cannot be told yet which instance asks. Try again.", _RETRY)
        followed.facts["instance_id"] = port.device_id
        return await self._forward(request, Asker(port=port, address=address, request_id=followed.request_id))

    async def _find(self, where: Origin, address: Address) -> Port:
        try:
            port = await self._finder.find(where, address)
        except NobodyError as error:
            self._measures.lookups.labels(error.outcome).inc()
            raise
        except NotKnownYetError:
            self._measures.lookups.labels("unknown").inc()
            raise
        self._measures.lookups.labels("found").inc()
        return port

    async def _forward(self, request: GuestRequest, asker: Asker) -> Reply:
        headers = headers_to_api(request.headers, asker, self.secret)
        began_at = self._clock()
        try:
            # A blank in a target is let in, but not on: not every server finds its end where we do.
            target = request.target.replace(b" ", b"%20")
            answer = await self._upstream.ask(request.method, target, headers, request.body)
        except UpstreamAwayError as error:
            self._measures.upstream_failures.inc()
            self.complaints.upstream_away(str(error))
            return _sentence(
                503, "The remote metadata server is temporarily unavailable. Please try again later.", _RETRY
            )
        self._measures.upstream_seconds.observe(self._clock() - began_at)
        self.complaints.upstream_answers()
        if _is_refused_signature(answer):
            self._measures.refused_signatures.inc()
            self.complaints.secrets_differ(str(self._upstream))
        return reply_of(answer, asker.request_id)


def _origin(headers: Headers, followed: _Followed) -> tuple[Origin, Address]:
    where = origin(headers)
    followed.facts |= {
        name: value
        for name, value in (("network_id", where.network_id), ("router_id", where.router_id), ("source", where.address))
        if value
    }
    try:
        return where, parse_address(where.address)
    except ValueError as error:
        raise HeaderError("X-Forwarded-For", f"X-Forwarded-For: {error}.") from None


def _request_id(headers: Headers) -> str:
    """The namespace proxy's, where it is one; stock neutron's proxies send none."""
    given = values(headers, REQUEST_ID)
    if len(given) == 1 and given[0].isascii() and given[0].isprintable() and len(given[0]) <= _MAX_REQUEST_ID_CHARS:
        return given[0]
    return f"req-{uuid.uuid4()}"


def _refused_method(request: GuestRequest) -> Reply | None:
    if request.method in ("TRACE", "CONNECT"):
        return _sentence(405, f"{request.method} is not allowed.", (b"Allow", b"GET, HEAD"))
    framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers)
    if request.method == "POST" and not framed:
        return _sentence(411, "A POST needs a Content-Length.")
    return None


def _is_refused_signature(answer: Answer) -> bool:
    """Nova's 403 says "Invalid proxy request signature." in whatever form was accepted."""
    return answer.status == 403 and b"signature" in answer.body.lower()


def _sentence(status: int, text: str, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status=status, headers=(_TEXT, *headers), body=text.encode())
