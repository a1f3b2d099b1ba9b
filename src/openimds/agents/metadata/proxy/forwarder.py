"""What the agent does not answer from memory, where it listens in the namespaces itself: signed and passed on.

Identical GETs of one guest that are under way at the same moment are one question to the metadata API. Identical means:
the same port, address, target and every header that goes on, so no two guests, and no two sessions, ever share. What is
new at every read (meta_data.json has a random seed) is asked for each time. Answers are not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import replace

from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.protocols import Headers, Upstream, UpstreamAwayError
from openimds.agents.metadata.proxy.headers import REQUEST_ID, IdentifiedClient, guest_response, signed_headers
from openimds.agents.metadata.proxy.per_key_limiter import PerKeyLimiter
from openimds.agents.metadata.throttled_log import ThrottledLog
from openimds.guest_identity.headers import FORWARDED_FOR, GUEST_FORWARDED, PRIVILEGED, is_privileged
from openimds.guest_identity.port_match import Binding
from openimds.http.messages import Request, Response
from openimds.metadata.paths import MalformedTargetError, parse_path
from openimds.metadata.session_policy import HOP_LIMIT

_NEW_EACH_TIME = "meta_data.json"
_HOP_LIMIT = HOP_LIMIT.lower().encode()
_RETRY = (b"Retry-After", b"1")
_PRIVILEGED = PRIVILEGED.lower().encode()
_OURS_TO_SAY = frozenset({_PRIVILEGED, GUEST_FORWARDED.lower().encode()})
"""A namespace proxy says these of its guests; there is none here."""


class Forwarder:
    """Belongs to the event loop. `clock` gives seconds that never go back."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        secret: str,
        measures: Metrics,
        complaints: ThrottledLog,
        clock: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._measures = measures
        self._complaints = complaints
        self._clock = clock
        self._shares = PerKeyLimiter()
        self._under_way: dict[Hashable, asyncio.Task[Response]] = {}
        self.secret = secret
        """May be replaced while it runs: the next request is signed with the new one."""

    async def ask(self, binding: Binding, request: Request, request_id: str) -> Response:
        """Never raises: that nobody answers is an answer of ours, 503; so are 405 and 411."""
        refusal = _refused(request, request_id)
        if refusal is not None:
            return refusal
        signed = self._signed(binding, request)
        if not _may_be_shared(request):
            return await self._ask_in_turn(binding, request, signed, request_id)
        key = (binding.port.id, request.target, tuple(signed))
        task = self._under_way.get(key)
        if task is None:
            asking = self._ask_in_turn(binding, request, signed, request_id)
            task = self._under_way[key] = asyncio.get_running_loop().create_task(asking)
            task.add_done_callback(lambda _task: self._under_way.pop(key, None))
        return _under(request_id, await asyncio.shield(task))  # whoever gives up does not take it from the others

    def _signed(self, binding: Binding, request: Request) -> Headers:
        # As behind a namespace proxy: the address we know stands behind whatever the guest wrote, and counts; that root
        # asks is ours alone to say.
        known = [(FORWARDED_FOR.encode(), str(binding.source.address).encode())]
        if is_privileged(request.peer_port):
            known.append((_PRIVILEGED, b"1"))
        theirs = [(name, value) for name, value in request.headers if name.lower() not in _OURS_TO_SAY]
        asker = IdentifiedClient(port=binding.port, address=binding.source.address)
        return signed_headers((*theirs, *known), asker, self.secret)

    async def _ask_in_turn(self, binding: Binding, request: Request, signed: Headers, request_id: str) -> Response:
        await self._shares.take(binding.port.id)
        try:
            return await self._ask_now(request, (*signed, (REQUEST_ID, request_id.encode())), request_id)
        finally:
            self._shares.give_back(binding.port.id)

    async def _ask_now(self, request: Request, headers: Headers, request_id: str) -> Response:
        began_at = self._clock()
        try:
            # A blank in a target is let in, but not on: not every server finds its end where we do.
            target = request.target.replace(b" ", b"%20")
            answer = await self._upstream.ask(request.method, target, headers, request.body)
        except UpstreamAwayError as error:
            self._measures.upstream_failures.inc()
            self._complaints.upstream_away(str(error))
            sentence = "The remote metadata server is temporarily unavailable. Please try again later."
            return _sentence(request_id, 503, sentence, _RETRY)
        self._measures.upstream_seconds.observe(self._clock() - began_at)
        self._complaints.upstream_answers()
        if answer.status == 403 and b"signature" in answer.body.lower():
            self._measures.refused_signatures.inc()
            self._complaints.secrets_differ(str(self._upstream))
        reply = guest_response(answer, request_id)
        return Response(status=reply.status, headers=reply.headers, body=reply.body, hop_limit=_hop_limit(answer))


def _may_be_shared(request: Request) -> bool:
    if request.method != "GET" or request.body:
        return False
    try:
        parts = parse_path(request.target).parts
    except MalformedTargetError:
        return False
    return not parts or parts[-1] != _NEW_EACH_TIME


def _under(request_id: str, reply: Response) -> Response:
    """The same answer to another request."""
    others = tuple((name, value) for name, value in reply.headers if name != REQUEST_ID)
    return replace(reply, headers=(*others, (REQUEST_ID, request_id.encode())))


def _hop_limit(answer: Response) -> int | None:
    for name, value in answer.headers:
        if name.lower() == _HOP_LIMIT and value.isdigit() and 1 <= int(value) <= 255:
            return int(value)
    return None


def _refused(request: Request, request_id: str) -> Response | None:
    if request.method in ("TRACE", "CONNECT"):
        return _sentence(request_id, 405, f"{request.method} is not allowed.", (b"Allow", b"GET, HEAD"))
    framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers)
    if request.method == "POST" and not framed:
        return _sentence(request_id, 411, "A POST needs a Content-Length.")
    return None


def _sentence(request_id: str, status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    content_type = (b"Content-Type", b"text/plain; charset=UTF-8")
    return Response(
        status=status, headers=(content_type, *headers, (REQUEST_ID, request_id.encode())), body=text.encode()
    )
