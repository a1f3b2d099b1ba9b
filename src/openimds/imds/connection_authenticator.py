"""Who asks where this program itself listens in the guests' networks: the connection's binding to a port tells.

A request's straight line: nothing forwarded, where that is asked for (403) → who asks (404, 503) → not too often (429)
→ its instance's record, from memory or from the control API; who has none here is answered elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Protocol

import structlog

from openimds.guest_identity.port_match import Binding, NoSinglePort, PortNotReady
from openimds.guest_identity.request_policy import rejection_reason
from openimds.guest_identity.token_bucket import TokenBucket
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import AuthenticatedInstance, AuthError, DelegateUpstream
from openimds.imds.instance_cache import CacheEntry, InstanceCache
from openimds.imds.rate_limit import PortRateLimiter, UnknownClientLimiter
from openimds.metadata.outcome import NOT_FOUND_SENTENCE
from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import Instance

log = structlog.get_logger(__name__)

MAX_ASKERS = 5000
VAIN_SECONDS = 1.0
"""How long a record that is not in memory is not asked for, after the control API did not answer."""
_RETRY = (("Retry-After", "1"),)


class Bindings(Protocol):
    """agents.metadata.direct_identity.DirectIdentity."""

    def at_once(self, listener: str, peer: str, mac: str) -> Binding | None: ...
    def trusts(self, binding: Binding) -> bool: ...
    async def find(self, listener: str, peer: str, mac: str) -> Binding:
        """Raises NobodyAsks, NotKnownYet."""


class RecordSource(Protocol):
    def instance(self, instance_id: str) -> Instance | None:
        """Blocks. Raises StoreUnavailable."""


class Upstream(Protocol):
    async def ask(self, binding: Binding, request: Request, request_id: str) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRules:
    """What guests may do."""

    strict_hosts: Collection[str] | None
    """The Hosts that requests may name, and nothing forwarded; None: requests are taken as they come."""
    rates: PortRateLimiter
    strangers: UnknownClientLimiter
    """Where requests of whom nobody knows are counted."""


class ConnectionAuthenticator:
    """An Identification. `clock` gives seconds that never go back."""

    def __init__(
        self,
        bindings: Bindings,
        records: InstanceCache,
        source: RecordSource,
        upstream: Upstream,
        rules: GuestRules,
        clock: Callable[[], float],
    ) -> None:
        self._bindings = bindings
        self._records = records
        self._source = source
        self._upstream = upstream
        self._rules = rules
        self._clock = clock
        self._vain_until = 0.0
        self._askers: dict[Binding, tuple[CacheEntry, TokenBucket | None, AuthenticatedInstance]] = {}
        """Made of these; a boot asks some thirty things in a row."""

    def at_once(self, request: Request) -> AuthenticatedInstance | None:
        """Where the binding and the record are in memory. Raises NotServed (403, 404, 429)."""
        self._refuse_forwarded(request)
        binding = self._bindings.at_once(request.listener, request.peer, request.mac)
        record = self._records.known(("instance", binding.port.device_id)) if binding is not None else None
        if binding is None or record is None or record.answer is None:
            return None
        bucket = self._rules.rates.bucket(binding.port.id, binding.source.address)
        self._limit(bucket, binding)
        self._refuse_other_project(record, binding)
        return self._asker(request, binding, record, bucket)

    async def asker(self, request: Request) -> AuthenticatedInstance:
        """Raises NotServed (403, 404, 429, 503) or Elsewhere."""
        self._refuse_forwarded(request)
        binding = await self._binding(request)
        bucket = self._rules.rates.bucket(binding.port.id, binding.source.address)
        self._limit(bucket, binding)
        record = await self._record(binding)
        return self._asker(request, binding, record, bucket)

    def _refuse_forwarded(self, request: Request) -> None:
        hosts = self._rules.strict_hosts
        refusal = rejection_reason(request.headers, hosts) if hosts is not None else None
        if refusal is not None:
            raise AuthError(HTTPStatus.FORBIDDEN, refusal, facts=_place(request))

    async def _binding(self, request: Request) -> Binding:
        where = (request.listener, request.peer, request.mac)
        try:
            return self._bindings.at_once(*where) or await self._bindings.find(*where)
        except NoSinglePort as nobody:
            self._rules.strangers.refused(request.listener, request.mac, request.peer)
            facts = _place(request) | {"outcome": nobody.outcome, "reason": str(nobody)}
            raise AuthError(HTTPStatus.NOT_FOUND, NOT_FOUND_SENTENCE, facts=facts) from None
        except PortNotReady as unknown:  # not counted: not yet is never no, and it was held for as long as that goes
            facts = _place(request) | {"outcome": "unknown", "reason": str(unknown)}
            sentence = "It cannot be told yet which instance asks. Try again."
            raise AuthError(HTTPStatus.SERVICE_UNAVAILABLE, sentence, _RETRY, facts=facts) from None

    def _limit(self, bucket: TokenBucket | None, binding: Binding) -> None:
        if bucket is None or self._rules.rates.allows(bucket):
            return
        raise AuthError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "Too many requests. Try again later.",
            (("Retry-After", str(bucket.retry_after_seconds)),),
            facts=_facts(binding) | {"instance_id": binding.port.device_id, "reason": "the port's bucket is empty"},
        )

    async def _record(self, binding: Binding) -> CacheEntry:
        """The instance's. Raises Elsewhere when there is none here, NotServed for another project's."""
        instance_id = binding.port.device_id
        key = ("instance", instance_id)
        record = self._records.known(key)
        if record is None and self._clock() >= self._vain_until:
            try:
                record = await self._records.record(key, lambda: self._source.instance(instance_id))
            except StoreUnavailable as error:
                self._vain_until = self._clock() + VAIN_SECONDS
                log.debug("an instance's record is not to be had", instance_id=instance_id, reason=error.message)
        if record is None or record.answer is None:
            raise self._elsewhere(binding)
        self._refuse_other_project(record, binding)
        return record

    def _refuse_other_project(self, record: CacheEntry, binding: Binding) -> None:
        if record.answer.project_id != binding.port.project_id:
            facts = _facts(binding) | {"reason": "the port is of another project than its instance"}
            raise AuthError(HTTPStatus.NOT_FOUND, NOT_FOUND_SENTENCE, facts=facts)

    def _elsewhere(self, binding: Binding) -> DelegateUpstream:
        return DelegateUpstream(partial(self._upstream.ask, binding), binding.port.device_id, _facts(binding))

    def _asker(
        self, request: Request, binding: Binding, record: CacheEntry, bucket: TokenBucket | None
    ) -> AuthenticatedInstance:
        if not request.mac:
            return self._new_asker(request, binding, record, bucket)  # the binding is of this one request
        kept = self._askers.get(binding)
        if kept is not None and kept[0] is record and kept[1] is bucket:
            return kept[2]
        if len(self._askers) >= MAX_ASKERS:
            self._askers.clear()
        asker = self._new_asker(request, binding, record, bucket)
        self._askers[binding] = (record, bucket, asker)
        return asker

    def _new_asker(
        self, request: Request, binding: Binding, record: CacheEntry, bucket: TokenBucket | None
    ) -> AuthenticatedInstance:
        return AuthenticatedInstance(
            record,
            str(binding.source.address),
            facts=_facts(binding),
            # Without a MAC of its own the connection's bytes do not tell who asks.
            still=self._still(binding, bucket) if request.mac else None,
            elsewhere=partial(self._upstream.ask, binding),
        )

    def _still(self, binding: Binding, bucket: TokenBucket | None) -> Callable[[], bool]:
        trusts, allows = self._bindings.trusts, self._rules.rates.allows
        if bucket is None:
            return partial(trusts, binding)
        return lambda: trusts(binding) and allows(bucket)


def _place(request: Request) -> dict[str, object]:
    kind, _, scope_id = request.listener.partition(":")
    return {f"{kind}_id": scope_id, "source": request.peer, "mac": request.mac or None}


def _facts(binding: Binding) -> dict[str, object]:
    source = binding.source
    scope = {"network_id": source.network_id} if source.network_id else {"router_id": source.router_id}
    return {**scope, "source": str(source.address), "port_id": binding.port.id}
