"""Authenticates a request by its port.

The resolver finds the port. The record of the port's instance comes from the cache or from the control API. If neither
has the record, the request is delegated to the metadata API.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from openimds.agents.metadata.lookup.resolver import ClientOrigin, PortResolver
from openimds.agents.metadata.metrics import Metrics
from openimds.agents.metadata.origins import Origins, origin_facts
from openimds.agents.metadata.proxy.forwarder import Forwarder
from openimds.agents.metadata.records import InstanceRecords
from openimds.guest_identity.port_match import Binding, NoSinglePort, PortLookupRefused, PortNotReady
from openimds.guest_identity.token_bucket import TokenBucket
from openimds.http.messages import Request, Response
from openimds.imds.authenticators import AuthenticatedInstance, AuthError, DelegateUpstream
from openimds.imds.instance_cache import CacheEntry
from openimds.imds.rate_limit import PortRateLimiter
from openimds.metadata.outcome import NOT_FOUND_SENTENCE

MAX_INSTANCES = 5000
MAX_RETRY_SECONDS = 10
"""The longest Retry-After, because a corrected configuration file takes effect immediately."""


class PortAuthenticator:
    """An Authenticator for one mode (`origins`)."""

    def __init__(
        self,
        origins: Origins,
        resolver: PortResolver,
        records: InstanceRecords,
        forwarder: Forwarder,
        rates: PortRateLimiter | None,
        metrics: Metrics,
    ) -> None:
        """`rates`: the limits of ports. None if the agent does not limit them."""
        self._origins = origins
        self.admit = origins.admit
        self._resolver = resolver
        self._records = records
        self._forwarder = forwarder
        self._rates = rates
        self._metrics = metrics
        self._instances: dict[Binding, AuthenticatedInstance] = {}
        """The results by binding, because a boot sends some thirty requests in a row."""

    def identifies(self, _request: Request) -> bool:
        return True

    def authenticate_from_cache(self, request: Request) -> AuthenticatedInstance | None:
        """Looks the port and the record up in caches only. Raises AuthError (400, 404, 429)."""
        binding = self._resolver.cached(self._origin(request))
        record = self._records.cache.cached(("instance", binding.port.device_id)) if binding is not None else None
        if binding is None or record is None or record.value is None:
            return None
        self._metrics.found.inc()
        return self._authenticated(binding, record, self._take(binding))

    async def authenticate(self, request: Request) -> AuthenticatedInstance:
        """Loads a missing record from the control API. Raises AuthError (400, 404, 429, 503), or DelegateUpstream."""
        binding = await self._binding(self._origin(request))
        bucket = self._take(binding)
        instance_id = binding.port.device_id
        record = self._records.cache.cached(("instance", instance_id)) or await self._records.load(instance_id)
        if record is None or record.value is None:
            raise DelegateUpstream(partial(self._forward, binding), instance_id, _facts(binding))
        return self._authenticated(binding, record, bucket)

    def _origin(self, request: Request) -> ClientOrigin:
        try:
            return self._origins.origin(request)
        except AuthError as error:
            if error.facts.get("outcome") == "malformed":
                self._metrics.lookups.labels("malformed").inc()
            raise

    async def _binding(self, origin: ClientOrigin) -> Binding:
        try:
            return await self._resolver.resolve(origin)
        except NoSinglePort as error:
            facts = {**origin_facts(origin), "outcome": error.outcome, "reason": str(error)}
            raise self._error(HTTPStatus.NOT_FOUND, NOT_FOUND_SENTENCE, facts=facts, is_unknown_client=True) from None
        except PortNotReady as error:
            facts = {**origin_facts(origin), "outcome": "unknown", "reason": str(error)}
            sentence = "The instance of this request cannot be determined yet. Try again."
            retry_seconds = min(error.retry_seconds, MAX_RETRY_SECONDS) if isinstance(error, PortLookupRefused) else 1
            headers = (("Retry-After", str(max(1, round(retry_seconds)))),)
            raise self._error(HTTPStatus.SERVICE_UNAVAILABLE, sentence, headers, facts=facts) from None

    def _take(self, binding: Binding) -> TokenBucket | None:
        """Counts the request. Returns the port's bucket, None if the port has no limit. Raises AuthError (429)."""
        if self._rates is None:
            return None
        bucket = self._rates.bucket(binding.port.id, binding.source.address)
        if bucket is None or self._rates.allows(bucket):
            return bucket
        raise self._error(
            HTTPStatus.TOO_MANY_REQUESTS,
            "Too many requests. Try again later.",
            (("Retry-After", str(bucket.retry_after_seconds)),),
            facts={**_facts(binding), "instance_id": binding.port.device_id, "reason": "the port's bucket is empty"},
        )

    def _authenticated(self, binding: Binding, record: CacheEntry, bucket: TokenBucket | None) -> AuthenticatedInstance:
        """Raises AuthError (404) if the instance belongs to another project than its port."""
        cached = self._instances.get(binding)
        if cached is not None and cached.record is record and cached.bucket is bucket:
            return cached
        if record.value.project_id != binding.port.project_id:
            facts = {**_facts(binding), "reason": "the port is of another project than its instance"}
            raise self._error(HTTPStatus.NOT_FOUND, NOT_FOUND_SENTENCE, facts=facts)
        made = AuthenticatedInstance(
            record=record,
            instance=record.value,
            address=str(binding.source.address),
            facts=_facts(binding),
            bucket=bucket,
            # Equal bytes do not identify the client if its binding is for one request only.
            is_current=self._validity(binding, bucket) if binding.is_valid else None,
            upstream=partial(self._forward, binding),
        )
        if binding.is_valid:
            if len(self._instances) >= MAX_INSTANCES:
                self._instances.clear()
            self._instances[binding] = made
        return made

    def _validity(self, binding: Binding, bucket: TokenBucket | None) -> Callable[[], bool]:
        trusts = self._resolver.trusts
        if bucket is None or self._rates is None:
            return partial(trusts, binding)
        allows = self._rates.allows
        return lambda: trusts(binding) and allows(bucket)

    async def _forward(self, binding: Binding, request: Request, request_id: str) -> Response:
        """Forwards a request to the metadata API.

        If the response is 404 and the port belongs to another instance by now, raises DelegateUpstream for that instance.
        """
        headers = self._origins.proxied_headers(binding, request)
        response = await self._forwarder.forward(binding, headers, request, request_id)
        if response.status != HTTPStatus.NOT_FOUND:
            return response
        moved = await self._resolver.resolve_again(binding)
        if moved is None:
            return response
        raise DelegateUpstream(partial(self._forward, moved), moved.port.device_id, _facts(moved))

    def _error(
        self,
        status: int,
        sentence: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        facts: dict[str, object],
        is_unknown_client: bool = False,
    ) -> AuthError:
        return AuthError(
            status,
            sentence,
            headers,
            facts=facts,
            is_plain=self._origins.has_plain_errors,
            is_unknown_client=is_unknown_client,
        )


def _facts(binding: Binding) -> dict[str, object]:
    source = binding.source
    scope = {"network_id": source.network_id} if source.network_id else {"router_id": source.router_id}
    return {**scope, "source": str(source.address), "port_id": binding.port.id}
