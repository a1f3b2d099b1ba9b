"""What a request wants done before it can be answered: a password stored, vendors asked.

The metadata API, without its transport: a request in, an answer out.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from ssl import RAND_bytes
from typing import Any, Protocol

from openimds.guest_identity.headers import INSTANCE_ID, header_names, values
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import AuthenticatedInstance, Authenticator, AuthError, DelegateUpstream
from openimds.imds.document_cache import Calendar, DocumentCache
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.rendered_document import RandomSeeds, RenderedDocument
from openimds.imds.request_log import RequestLog, StructuredLog, new_request_id, request_id
from openimds.imds.response import ANNOUNCES_A_BODY, RequestTrace, ResponseBuilder, error_response
from openimds.imds.session_tokens import SessionTokens, TokenSettings
from openimds.imds.vendordata import VendordataTargets
from openimds.metadata.context import DocumentSettings
from openimds.metadata.etags import not_modified_or, with_etag
from openimds.metadata.outcome import Document, FetchVendordata, MetadataError, StorePassword, not_found
from openimds.metadata.password import password_refused, password_stored
from openimds.metadata.paths import MalformedTargetError, Path, parse_path
from openimds.metadata.router import DocumentRequest, forbid_options, root_document
from openimds.metadata.vendordata import vendor_data2, vendordata_request
from openimds.resources.errors import NotFound, StoreUnavailable


class Passwords(Protocol):
    """Where passwords are stored; asked of where the asker has nobody elsewhere who does."""

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """False when the instance has one. Raises NotFound, StoreUnavailable."""


class CarryingOut:
    """Of one service."""

    def __init__(
        self,
        *,
        records: InstanceCache,
        passwords: Passwords | None,
        vendors: VendordataTargets | None,
        settings: DocumentSettings,
        executor: Executor,
    ) -> None:
        """Passwords are stored on a thread of `executor`."""
        self._records = records
        self._passwords = passwords
        self._vendors = vendors
        self._settings = settings
        self._executor = executor

    async def carry_out(self, wanted: StorePassword | FetchVendordata, asker: AuthenticatedInstance) -> Document:
        """Raises Elsewhere where the asker has others for it; Refusal; StoreUnavailable."""
        if asker.elsewhere is not None:
            raise DelegateUpstream(asker.elsewhere, asker.instance.id, asker.facts)
        match wanted:
            case StorePassword(text):
                return await self._store_password(asker.instance.id, text)
            case FetchVendordata():
                said = await self._vendors.ask(vendordata_request(asker.instance)) if self._vendors else {}
                return vendor_data2(self._settings, said)

    async def _store_password(self, instance_id: str, text: str) -> Document:
        loop = asyncio.get_running_loop()
        if self._passwords is None:
            raise MetadataError(503, "No passwords can be stored here.")
        try:
            stored = await loop.run_in_executor(self._executor, self._passwords.set_password_once, instance_id, text)
        except NotFound:
            raise not_found() from None
        self._records.forget_instance(instance_id)
        if not stored:
            raise password_refused()
        return password_stored()


_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is different at every request."""

    random_bytes: Callable[[int], bytes] = os.urandom
    many_random_bytes: Callable[[int], bytes] = RAND_bytes
    """For random seeds, thousands at a time: OpenSSL's generator, AES-256 in counter mode, takes a fifteenth of the
    kernel's time. It is seeded, every 7 minutes anew, from the kernel, and a forked process has another."""
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)


class MetadataHandler:
    """`await service.handle(request)`. Of one event loop."""

    def __init__(  # noqa: PLR0913 - the parts that a daemon joins
        self,
        *,
        identification: Authenticator,
        records: InstanceCache,
        passwords: Passwords | None,
        settings: DocumentSettings,
        executor: Executor,
        vendors: VendordataTargets | None = None,
        tokens: TokenSettings | None = None,
        world: Environment | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        """Without `tokens` there are none: their calls are answered as nova does, which does not know them.

        Without `passwords` none is stored here: askers bring with them who does.
        """
        self._identification = identification
        world = world or Environment()
        self._records = records
        calendar = Calendar(world.utc_now)
        self._documents = DocumentCache(records, settings, calendar=calendar, random_bytes=world.random_bytes)
        self._seeds = RandomSeeds(world.many_random_bytes)
        tokens = tokens or TokenSettings()
        self._is_behind_agent = tokens.is_behind_agent
        self._sessions = SessionTokens(
            tokens,
            settings.policy,
            now=lambda: world.utc_now().timestamp(),
            random_bytes=world.random_bytes,
        )
        self._carrying_out = CarryingOut(
            records=records, passwords=passwords, vendors=vendors, settings=settings, executor=executor
        )
        self._finishing = ResponseBuilder(
            calendar=calendar,
            seeds=self._seeds,
            sessions=self._sessions,
            request_log=request_log or StructuredLog(),
            is_behind_agent=self._is_behind_agent,
        )

    def serve(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """The answer; where it takes what is not in memory, later. Never raises: whatever goes wrong becomes an answer
        here, and nowhere else.
        """
        # Where guests come themselves an id in the request is of their own making, and could be another's.
        followed_as = request_id(request.headers) if self._is_behind_agent else new_request_id()
        trace = RequestTrace(followed_as, time.monotonic(), header_names(request.headers))
        try:
            answer = self._begin(request, trace)
        except Exception as error:  # noqa: BLE001 - see above
            answer = error_response(error, request, trace)
        if isinstance(answer, Document):
            return self._finishing.finish(request, answer, trace)
        return self._finish_later(request, answer, trace)

    async def handle(self, request: Request) -> Response:
        """As `serve`, for who can wait."""
        answer = self.serve(request)
        return answer if isinstance(answer, Response) else await answer

    async def _finish_later(
        self, request: Request, coming: Coroutine[Any, Any, Document], trace: RequestTrace
    ) -> Response:
        try:
            answer = await self._here_or_elsewhere(request, coming, trace)
        except asyncio.CancelledError:
            self._finishing.give_up(request, trace)
            raise
        except Exception as error:  # noqa: BLE001 - see `serve`
            answer = error_response(error, request, trace)
        return self._finishing.finish(request, answer, trace)

    async def _here_or_elsewhere(
        self, request: Request, coming: Coroutine[Any, Any, Document], trace: RequestTrace
    ) -> Document | Response:
        try:
            return await coming
        except DelegateUpstream as elsewhere:
            trace.instance_id, trace.asker = elsewhere.instance_id, None
            trace.facts = {**elsewhere.facts, "forwarded": True}
            try:
                return await elsewhere.forward(request, trace.request_id)
            finally:
                if request.method not in _READS:
                    # It may have changed (its password): whoever asks next, before the news of it, is not told otherwise.
                    self._records.forget_instance(elsewhere.instance_id)

    def retire(self) -> None:
        """Another service takes over: what this one prepared is not given again."""
        self._finishing.retire()

    def _begin(self, request: Request, trace: RequestTrace) -> Document | Coroutine[Any, Any, Document]:
        """Raises Refusal."""
        forbid_options(request.method)
        try:
            path = parse_path(request.target)
        except MalformedTargetError as error:
            raise MetadataError(400, str(error)) from None
        asker = None if path.is_public else self._identification.at_once(request)
        if asker is None:
            return self._identify(request, path, trace)
        return self._decide(request, path, asker, trace)

    async def _identify(self, request: Request, path: Path, trace: RequestTrace) -> Document:
        asker = await self._asker_of_public(request) if path.is_public else await self._identification.asker(request)
        if asker is None:
            return _reread(root_document(request.method), request)
        answer = self._decide(request, path, asker, trace)
        return answer if isinstance(answer, Document) else await answer

    def _decide(
        self, request: Request, path: Path, asker: AuthenticatedInstance, trace: RequestTrace
    ) -> Document | Coroutine[Any, Any, Document]:
        trace.instance_id, trace.asker, trace.facts = asker.instance.id, asker, asker.facts
        token = self._sessions.admit(request, path, asker.instance)
        if token is not None:
            return token
        has_body = not trace.header_names.isdisjoint(ANNOUNCES_A_BODY)
        asked = DocumentRequest(method=request.method, path=path, body=request.body if has_body else None)
        found = self._documents.find(asked, asker)
        if isinstance(found, RenderedDocument):
            trace.rendered = found
            return _reread(found.again(self._seeds), request)
        if isinstance(found, Document):
            return _reread(found, request)
        return self._carry_out(found, asker, request)

    async def _asker_of_public(self, request: Request) -> AuthenticatedInstance | None:
        """`/` is everybody's; but an instance whose endpoint is switched off is not told even that."""
        if self._is_behind_agent and not values(request.headers, INSTANCE_ID):
            return None
        try:
            return await self._identification.asker(request)
        except AuthError:
            raise
        except (MetadataError, StoreUnavailable):
            return None

    async def _carry_out(
        self, wanted: StorePassword | FetchVendordata, asker: AuthenticatedInstance, request: Request
    ) -> Document:
        return _reread(await self._carrying_out.carry_out(wanted, asker), request)


def _reread(answer: Document, request: Request) -> Document:
    """With an ETag; 304 for who has it already."""
    if request.method not in _READS:
        return answer
    return not_modified_or(with_etag(answer), ",".join(values(request.headers, "If-None-Match")))
