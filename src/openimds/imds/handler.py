"""The handler of a metadata service: takes a request and returns a response, without any transport.

The steps of a request (`MetadataHandler.serve` and `MetadataHandler._begin`):

1. trace: the request ID, and the facts for the log line
2. admission: 429 for a banned client, 403 or 405 for a forbidden host or method
3. path: parse the target
4. authenticate: the instance of the request
5. session token: check it, or issue a new one
6. document: find or render it
7. action: store the password, ask vendors, or forward the request
8. condition: add the ETag, compare it with If-None-Match
9. finish: count, log and build the response
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from ssl import RAND_bytes
from typing import Any, Protocol

from openimds.guest_identity.headers import header_names, values
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import AuthenticatedInstance, Authenticator, AuthError, DelegateUpstream
from openimds.imds.document_cache import Calendar, DocumentCache, RandomSeeds, RenderedDocument
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.rate_limit import UnknownClientLimiter
from openimds.imds.request_log import RequestLog, StructuredLog, new_request_id, proxied_request_id, request_id
from openimds.imds.response import BODY_HEADERS, RequestTrace, ResponseBuilder, error_response
from openimds.imds.session_tokens import PreviousHop, SessionTokens, TokenSettings
from openimds.imds.vendordata import VendordataTargets
from openimds.metadata.context import DocumentSettings
from openimds.metadata.outcome import (
    Document,
    FetchVendordata,
    MetadataError,
    StorePassword,
    not_found,
    not_modified_or,
    with_etag,
)
from openimds.metadata.password import password_refused, password_stored
from openimds.metadata.paths import MalformedTargetError, Path, parse_path
from openimds.metadata.router import DocumentRequest, forbid_options, root_document
from openimds.metadata.vendordata import vendor_data2, vendordata_request
from openimds.resources.errors import NotFound, StoreUnavailable

_READS = ("GET", "HEAD")
_UTC_NOW = partial(datetime.now, UTC)


class Passwords(Protocol):
    """The password storage of the metadata API."""

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """Returns False if the instance has a password already. Raises NotFound, StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The sources of randomness and time."""

    random_bytes: Callable[[int], bytes] = os.urandom
    many_random_bytes: Callable[[int], bytes] = RAND_bytes
    """For random seeds, thousands at a time. OpenSSL's generator (AES-256 in counter mode) takes a fifteenth of the
    kernel's time. It is reseeded from the kernel every 7 minutes, and a forked process has a generator of its own."""
    utc_now: Callable[[], datetime] = _UTC_NOW


class MetadataHandler:
    """Belongs to the event loop."""

    def __init__(  # noqa: PLR0913 - the parts of a program
        self,
        *,
        authenticator: Authenticator,
        records: InstanceCache,
        passwords: Passwords | None,
        settings: DocumentSettings,
        executor: Executor,
        vendors: VendordataTargets | None = None,
        tokens: TokenSettings | None = None,
        environment: Environment | None = None,
        request_log: RequestLog | None = None,
        unknown_clients: UnknownClientLimiter | None = None,
    ) -> None:
        """`tokens`: None if no tokens are issued. Token requests are then answered as by Nova, which has none.

        `passwords`: None if the authenticator delegates the requests that change something.
        """
        environment = environment or Environment()
        tokens = tokens or TokenSettings()
        self._authenticator = authenticator
        self._records = records
        self._passwords = passwords
        self._settings = settings
        self._executor = executor
        self._vendors = vendors
        self._unknown_clients = unknown_clients
        self._request_id = _REQUEST_ID_OF[tokens.previous_hop]
        calendar = Calendar(environment.utc_now)
        self._documents = DocumentCache(records, settings, calendar=calendar, random_bytes=environment.random_bytes)
        self._seeds = RandomSeeds(environment.many_random_bytes)
        self._sessions = SessionTokens(
            tokens,
            settings.policy,
            now=lambda: environment.utc_now().timestamp(),
            random_bytes=environment.random_bytes,
        )
        self._responses = ResponseBuilder(
            calendar=calendar,
            seeds=self._seeds,
            request_log=request_log or StructuredLog(),
            previous_hop=tokens.previous_hop,
            unknown_clients=unknown_clients,
        )

    def serve(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Returns the response, or a coroutine if the response needs data that is not in memory. Never raises."""
        trace = RequestTrace(self._request_id(request.headers), time.monotonic(), header_names(request.headers))
        try:
            result = self._begin(request, trace)
        except Exception as error:  # noqa: BLE001 - each error becomes a response, here and in `_serve_later`
            result = error_response(error, request, trace)
        if isinstance(result, Document):
            return self._responses.finish(request, result, trace)
        return self._serve_later(request, result, trace)

    async def handle(self, request: Request) -> Response:
        """Awaits the result of `serve` if it is a coroutine, and returns the response."""
        response = self.serve(request)
        return response if isinstance(response, Response) else await response

    def retire(self) -> None:
        """Ends the replay of responses, because another handler with other settings takes over."""
        self._responses.retire()

    def _begin(self, request: Request, trace: RequestTrace) -> Document | Coroutine[Any, Any, Document]:
        """Raises MetadataError."""
        self._admit(request)
        path = _path_of(request)
        instance = None if path.is_public else self._authenticator.authenticate_from_cache(request)
        if instance is None:
            return self._authenticate_and_respond(request, path, trace)
        return self._respond(request, path, instance, trace)

    def _admit(self, request: Request) -> None:
        """Raises AuthError for a request that is rejected before its client and its path are looked at."""
        clients = self._unknown_clients
        wait = clients.wait_seconds(request.listener, request.mac, request.peer) if clients is not None else 0
        if wait:
            kind, _, scope_id = request.listener.partition(":")
            raise AuthError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many requests. Try again later.",
                (("Retry-After", str(wait)),),
                facts={
                    f"{kind}_id": scope_id,
                    "source": request.peer,
                    "mac": request.mac or None,
                    "reason": "too many malformed or unidentified requests",
                },
                is_plain=True,
            )
        self._authenticator.admit(request)

    async def _authenticate_and_respond(self, request: Request, path: Path, trace: RequestTrace) -> Document:
        if path.is_public:
            instance = await self._instance_of_public(request)
        else:
            instance = await self._authenticator.authenticate(request)
        if instance is None:
            return _conditional(root_document(request.method), request)
        result = self._respond(request, path, instance, trace)
        return result if isinstance(result, Document) else await result

    async def _instance_of_public(self, request: Request) -> AuthenticatedInstance | None:
        """Returns the instance of a request for `/`. None if it is unknown: then `/` is public.

        An instance whose metadata endpoint is disabled does not get `/` either.
        """
        if not self._authenticator.identifies(request):
            return None
        try:
            return await self._authenticator.authenticate(request)
        except AuthError:
            raise
        except (MetadataError, StoreUnavailable):
            return None

    def _respond(
        self, request: Request, path: Path, instance: AuthenticatedInstance, trace: RequestTrace
    ) -> Document | Coroutine[Any, Any, Document]:
        trace.instance_id, trace.authenticated, trace.facts = instance.instance.id, instance, instance.facts
        trace.policy = self._sessions.policy(instance.instance)
        token = self._sessions.admit(request, path, instance.instance, trace.policy)
        if token is not None:
            return token
        has_body = not trace.header_names.isdisjoint(BODY_HEADERS)
        wanted = DocumentRequest(method=request.method, path=path, body=request.body if has_body else None)
        found = self._documents.find(wanted, instance)
        if isinstance(found, RenderedDocument):
            trace.rendered = found
            return _conditional(found.again(self._seeds), request)
        if isinstance(found, Document):
            return _conditional(found, request)
        return self._act(found, instance, request)

    async def _act(
        self, action: StorePassword | FetchVendordata, instance: AuthenticatedInstance, request: Request
    ) -> Document:
        """Raises DelegateUpstream if the metadata API does it, MetadataError, StoreUnavailable."""
        if instance.upstream is not None:
            raise DelegateUpstream(instance.upstream, instance.instance.id, instance.facts)
        match action:
            case StorePassword(text):
                return _conditional(await self._store_password(instance.instance.id, text), request)
            case FetchVendordata():
                wanted = vendordata_request(instance.instance)
                responses = await self._vendors.fetch(wanted) if self._vendors else {}
                return _conditional(vendor_data2(self._settings, responses), request)

    async def _store_password(self, instance_id: str, text: str) -> Document:
        if self._passwords is None:
            raise MetadataError(503, "No passwords can be stored here.")
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._executor, self._passwords.set_password_once, instance_id, text)
        except NotFound:
            raise not_found() from None
        self._records.forget_instance(instance_id)
        if not stored:
            raise password_refused()
        return password_stored()

    async def _serve_later(
        self, request: Request, coming: Coroutine[Any, Any, Document], trace: RequestTrace
    ) -> Response:
        try:
            result = await self._here_or_upstream(request, coming, trace)
        except asyncio.CancelledError:
            self._responses.give_up(request, trace)
            raise
        except Exception as error:  # noqa: BLE001 - see `serve`
            result = error_response(error, request, trace)
        return self._responses.finish(request, result, trace)

    async def _here_or_upstream(
        self, request: Request, coming: Coroutine[Any, Any, Document | Response], trace: RequestTrace
    ) -> Document | Response:
        try:
            return await coming
        except DelegateUpstream as delegation:
            trace.instance_id, trace.authenticated = delegation.instance_id, None
            trace.facts = {**delegation.facts, "forwarded": True}
            try:
                forwarded = delegation.forward(request, trace.request_id)
                return await self._here_or_upstream(request, forwarded, trace)
            finally:
                if request.method not in _READS:
                    # The request may have changed the instance, and the watch is not notified yet.
                    self._records.forget_instance(delegation.instance_id)


_REQUEST_ID_OF: dict[PreviousHop, Callable[[Any], str]] = {
    # An ID of a client could be the ID of another request.
    PreviousHop.CLIENT: lambda _headers: new_request_id(),
    PreviousHop.PROXY: proxied_request_id,
    PreviousHop.AGENT: request_id,
}


def _path_of(request: Request) -> Path:
    forbid_options(request.method)
    try:
        return parse_path(request.target)
    except MalformedTargetError as error:
        raise MetadataError(400, str(error)) from None


def _conditional(document: Document, request: Request) -> Document:
    """Adds an ETag to the document. Returns 304 instead if the client has this version."""
    if request.method not in _READS:
        return document
    document = with_etag(document)
    given = request.header(b"if-none-match") is not None
    return not_modified_or(document, ",".join(values(request.headers, "If-None-Match"))) if given else document
