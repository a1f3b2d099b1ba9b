"""One guest's request, from the namespace proxy's socket to the answer."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from openimds.agents.metadata.lookup.resolver import PortResolver
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import Headers, Upstream, UpstreamAwayError
from openimds.agents.metadata.proxy.headers import REQUEST_ID, HeaderCache, ParsedHeaders, guest_response, without_id
from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity import headers as names
from openimds.guest_identity.headers import HeaderError, Origin, values
from openimds.guest_identity.port_match import NoSinglePort, PortNotReady
from openimds.http.messages import Request, Response
from openimds.imds.request_log import RequestLog
from openimds.resources.network import Port

_TEXT = (b"Content-Type", b"text/plain; charset=UTF-8")
_RETRY = (b"Retry-After", b"1")
_SHOWN_PATH_BYTES = 256
_ID = re.compile(rb"[0-9A-Za-z_.:-]{1,64}")
"""Of what request ids are made; it is written into the log as it is."""


@dataclass(slots=True)
class _RequestTrace:
    """A request on its way, and what is known of it so far, for its log line."""

    request_id: str
    facts: dict[str, object] = field(default_factory=dict)


class ProxyHandler:
    """`answer` is the HTTP server's handler."""

    def __init__(
        self,
        finder: PortResolver,
        upstream: Upstream,
        *,
        secret: str,
        measures: Metrics,
        log: RequestLog,
        clock: Callable[[], float],
    ) -> None:
        self._finder = finder
        self._upstream = upstream
        self._measures = measures
        self._log = log
        self._clock = clock
        self._hearing = HeaderCache()
        self._shares = PerKeyLimiter()
        self.complaints = ThrottledLog(clock)
        self.secret = secret
        """May be replaced while it runs: the next request is signed with the new one."""

    async def answer(self, request: Request) -> Response:
        """The metadata API's answer, or a sentence of our own: 400, 404, 405, 411, 503."""
        began_at = self._clock()
        headers, last = without_id(request.headers)
        followed = _RequestTrace(_request_id(last, headers))
        reply = await self._answer(request, headers, followed)
        self._measures.answered(reply.status)
        facts = followed.facts
        facts["method"] = request.method
        facts["path"] = request.target[:_SHOWN_PATH_BYTES].decode("latin-1")
        facts["status"] = reply.status
        self._log.line("request answered", facts)(followed.request_id, (self._clock() - began_at) * 1000)
        return reply

    async def _answer(self, request: Request, headers: Headers, followed: _RequestTrace) -> Response:
        refusal = _refused_method(request)
        if refusal is not None:
            return refusal
        try:
            heard = self._hearing.hear(headers)
            _note_origin(heard.origin, followed)
            port = self._finder.at_once(heard.origin, heard.address, heard.at)
            if port is None:
                port = await self._find(heard)
            else:
                self._measures.found.inc()
        except HeaderError as error:
            self._measures.lookups.labels("malformed").inc()
            followed.facts["reason"] = str(error)
            return _sentence(400, str(error))
        except NoSinglePort as error:
            followed.facts["reason"] = str(error)
            return _sentence(404, "The resource could not be found.")
        except PortNotReady as error:
            followed.facts["reason"] = str(error)
            return _sentence(503, "It cannot be told yet which instance asks. Try again.", _RETRY)
        reply = await self._ask_as(port, heard, request, followed)
        if reply.status != 404:
            return reply
        other = await self._moved_to(heard, port)
        return reply if other is None else await self._ask_as(other, heard, request, followed)

    async def _ask_as(self, port: Port, heard: ParsedHeaders, request: Request, followed: _RequestTrace) -> Response:
        followed.facts["instance_id"] = port.device_id
        if not self._shares.try_take(port.id):
            await self._shares.take(port.id)
        try:
            return await self._forward(request, heard.to_api(port, self.secret), followed.request_id)
        finally:
            self._shares.give_back(port.id)

    async def _moved_to(self, heard: ParsedHeaders, port: Port) -> Port | None:
        """Another port that has the address by now, when the metadata API knows nothing and `port` is an earlier find.

        An instance that is gone is answered 404: then what was found of its address is not believed any longer.
        """
        try:
            found = await self._finder.find_anew(heard.origin, heard.address)
        except (NoSinglePort, PortNotReady):
            return None
        return None if found is None or found.device_id == port.device_id else found

    async def _find(self, heard: ParsedHeaders) -> Port:
        try:
            port = await self._finder.find(heard.origin, heard.address)
        except NoSinglePort as error:
            self._measures.lookups.labels(error.outcome).inc()
            raise
        except PortNotReady:
            self._measures.lookups.labels("unknown").inc()
            raise
        self._measures.found.inc()
        return port

    async def _forward(self, request: Request, signed: Headers, request_id: str) -> Response:
        began_at = self._clock()
        try:
            # A blank in a target is let in, but not on: not every server finds its end where we do.
            target = request.target.replace(b" ", b"%20")
            headers = (*signed, (REQUEST_ID, request_id.encode()))
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
        return guest_response(answer, request_id)


def _note_origin(where: Origin, followed: _RequestTrace) -> None:
    if where.network_id:
        followed.facts["network_id"] = where.network_id
    if where.router_id:
        followed.facts["router_id"] = where.router_id
    if where.address:
        followed.facts["source"] = where.address


def _request_id(last: bytes, headers: Headers) -> str:
    """The namespace proxy's, where it is one of ours; stock neutron's proxies send none."""
    if _ID.fullmatch(last):
        return last.decode()
    given = values(headers, names.REQUEST_ID)
    if not last and len(given) == 1 and _ID.fullmatch(given[0].encode()):
        return given[0]
    return f"req-{uuid.uuid4()}"


def _refused_method(request: Request) -> Response | None:
    if request.method in ("TRACE", "CONNECT"):
        return _sentence(405, f"{request.method} is not allowed.", (b"Allow", b"GET, HEAD"))
    framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers)
    if request.method == "POST" and not framed:
        return _sentence(411, "A POST needs a Content-Length.")
    return None


def _is_refused_signature(answer: Response) -> bool:
    """Nova's 403 says "Invalid proxy request signature." in whatever form was accepted."""
    return answer.status == 403 and b"signature" in answer.body.lower()


def _sentence(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(status=status, headers=(_TEXT, *headers), body=text.encode())
