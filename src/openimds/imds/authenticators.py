"""Authentication of requests by a signed instance ID, by a provider and an address, or by the TCP peer's address."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from openimds.guest_identity.addresses import canonical
from openimds.guest_identity.headers import (
    INSTANCE_ID,
    HeaderError,
    InstanceClaim,
    ProviderClaim,
    instance_claim,
    provider_claim,
    values,
)
from openimds.guest_identity.request_policy import rejection_reason
from openimds.guest_identity.signature import matching_secret
from openimds.guest_identity.token_bucket import TokenBucket
from openimds.http.messages import Request, Response
from openimds.imds.instance_cache import CacheEntry, InstanceCache
from openimds.imds.metrics import METRICS
from openimds.metadata.outcome import MetadataError, not_found
from openimds.resources.instance import Instance

log = structlog.get_logger(__name__)

BAD_SIGNATURE = "Invalid proxy request signature."
_SECRET_NAMES = ("current", "previous")


class ProviderPort(Protocol):
    """The port that a provider claim names."""

    @property
    def instance_id(self) -> str: ...
    @property
    def project_id(self) -> str: ...


class Instances(Protocol):
    """The lookups of instances in the store. All raise StoreUnavailable."""

    def instance(self, instance_id: str) -> Instance | None: ...
    def instance_ids_by_address(self, address: str) -> tuple[str, ...]: ...
    def ports_by_provider(self, provider_id: str, address: str) -> Sequence[ProviderPort] | None: ...


UpstreamCall = Callable[[Request, str], Coroutine[Any, Any, Response]]
"""Forwards a request to the metadata API. Takes the request and its ID. A failure is a response."""


class DelegateUpstream(Exception):
    """Raised if the metadata API must handle a request: the instance's record is not cached, or the request changes it."""

    def __init__(self, forward: UpstreamCall, instance_id: str, facts: Mapping[str, object]) -> None:
        """`facts`: fields of the log line."""
        super().__init__(f"a request of the instance {instance_id} is forwarded to the metadata API")
        self.forward = forward
        self.instance_id = instance_id
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatedInstance:
    """The instance of a request, and the address that it uses if the address is known."""

    record: CacheEntry
    """The cache entry of the instance, with its rendered documents."""
    instance: Instance
    """The instance of `record`."""
    address: str | None
    secret: str = ""
    """The name of the secret that signed the request. Empty if the request is not signed."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Fields of the log line: the origin of the request."""
    bucket: TokenBucket | None = None
    """The bucket that counts the requests of the instance's port. None if they are not counted."""
    is_current: Callable[[], bool] | None = None
    """Returns whether the response may be replayed for the same bytes on the same connection. None if it may not be."""
    upstream: UpstreamCall | None = None
    """Forwards a request that changes something to the metadata API. None if this service is the metadata API."""


class AuthError(MetadataError):
    """A request that is rejected because of its client, including requests for `/`, which is public otherwise."""

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        facts: Mapping[str, object],
        is_plain: bool = False,
        is_unknown_client: bool = False,
    ) -> None:
        """`facts`: fields of the log line. `is_plain`: the response is the sentence alone, as text.

        `is_unknown_client`: the rejection counts for the client's ban.
        """
        super().__init__(status, sentence, headers)
        self.facts = facts
        self.is_plain = is_plain
        self.is_unknown_client = is_unknown_client


class Authenticator(Protocol):
    """Finds the instance of a request."""

    def admit(self, request: Request) -> None:
        """Raises AuthError for a request that is rejected regardless of its client."""

    def identifies(self, request: Request) -> bool:
        """Returns whether the request can have an instance at all."""

    def authenticate_from_cache(self, request: Request) -> AuthenticatedInstance | None:
        """Returns the instance if the cache has it. None if `authenticate` must be called, which can wait for the store.

        Raises MetadataError.
        """

    async def authenticate(self, request: Request) -> AuthenticatedInstance:
        """Returns the instance, from the cache or the store.

        Raises MetadataError (400 for headers, 403 for signatures, 404 for unknown clients) or DelegateUpstream.
        """


class SignatureAuthenticator:
    """Authenticates requests that a metadata agent signed (`service_metadata_proxy = True`)."""

    def __init__(self, instances: Instances, records: InstanceCache, secrets: Sequence[str]) -> None:
        """`secrets`: the accepted shared secrets. The first one is the current secret."""
        self._instances = instances
        self._records = records
        self._secrets = tuple(secrets)

    def admit(self, _request: Request) -> None: ...

    def identifies(self, request: Request) -> bool:
        return bool(values(request.headers, INSTANCE_ID))

    def authenticate_from_cache(self, request: Request) -> AuthenticatedInstance | None:
        claim = _claim(request)
        record = self._records.cached(("instance", claim.instance_id)) if isinstance(claim, InstanceClaim) else None
        if not isinstance(claim, InstanceClaim) or record is None:
            return None
        return self._authenticated(claim, record, self._verify(claim.instance_id, claim.signature))

    async def authenticate(self, request: Request) -> AuthenticatedInstance:
        claim = _claim(request)
        if isinstance(claim, ProviderClaim):
            self._verify(claim.provider_id, claim.signature)
            return await self._authenticate_provider(claim.provider_id, claim.address)
        secret = self._verify(claim.instance_id, claim.signature)
        return self._authenticated(claim, await self._record(claim.instance_id), secret)

    def _verify(self, signed_id: str, signature: str) -> str:
        """Returns the name of the secret that signed the ID. Raises MetadataError (403)."""
        place = matching_secret(self._secrets, signed_id, signature)
        name = "none" if place is None else _SECRET_NAMES[min(place, 1)]
        METRICS.signed(name)
        if place is None:
            log.warning(
                "request signature invalid: metadata_proxy_shared_secret must be equal here ([neutron] of nova.conf) and "
                "at the metadata agent (metadata_agent.ini)",
                signed_id=signed_id[:64],
            )
            raise MetadataError(403, BAD_SIGNATURE)
        return name

    async def _record(self, instance_id: str) -> CacheEntry:
        return await self._records.record(("instance", instance_id), lambda: self._instances.instance(instance_id))

    def _authenticated(self, claim: InstanceClaim, record: CacheEntry, secret: str = "") -> AuthenticatedInstance:
        instance: Instance | None = record.value
        if instance is None:
            log.info("signed request for an unknown instance", instance_id=claim.instance_id[:64])
            raise not_found()
        if instance.project_id != claim.tenant_id:
            log.warning("signed request with the wrong project of its instance", instance_id=claim.instance_id)
            raise not_found()
        return AuthenticatedInstance(record=record, instance=instance, address=claim.address, secret=secret)

    async def _authenticate_provider(self, provider_id: str, address: str) -> AuthenticatedInstance:
        ports = await self._records.load(
            ("provider", provider_id, address), lambda: self._instances.ports_by_provider(provider_id, address)
        )
        if ports is None:
            raise MetadataError(400, f"Could not find any subnets for provider {provider_id}")
        if len(ports) != 1:
            raise MetadataError(
                400, f"Expected a single port matching provider {provider_id} and IP {address}. Found {len(ports)}."
            )
        port = ports[0]
        found = InstanceClaim(
            instance_id=port.instance_id, signature="", tenant_id=port.project_id, address=address
        )  # the provider claim was signed instead
        return self._authenticated(found, await self._record(port.instance_id))


def _claim(request: Request) -> InstanceClaim | ProviderClaim:
    try:
        return provider_claim(request.headers) or instance_claim(request.headers)
    except HeaderError as error:
        raise MetadataError(400, str(error)) from None


class AddressAuthenticator:
    """Authenticates clients on one flat network by their address (`service_metadata_proxy = False`)."""

    def __init__(
        self, instances: Instances, records: InstanceCache, strict_hosts: Collection[str] | None = None
    ) -> None:
        """`strict_hosts`: the allowed values of Host. None if all are allowed.

        If it is not None, requests with a header that claims an identity (`X-Forwarded-For`) are rejected too.
        """
        self._instances = instances
        self._records = records
        self._strict_hosts = strict_hosts

    def admit(self, request: Request) -> None:
        reason = rejection_reason(request.headers, self._strict_hosts) if self._strict_hosts is not None else None
        if reason is not None:
            raise AuthError(403, reason, facts={})

    def identifies(self, _request: Request) -> bool:
        return True

    def authenticate_from_cache(self, request: Request) -> AuthenticatedInstance | None:
        """Returns None for every request. A flat network has few clients, so this saves too little."""

    async def authenticate(self, request: Request) -> AuthenticatedInstance:
        if values(request.headers, INSTANCE_ID):
            log.warning("X-Instance-ID ignored: service_metadata_proxy is off", peer=request.peer)
        try:
            address = canonical(request.peer)
        except ValueError:
            log.warning("request without a client address", peer=request.peer)
            raise not_found() from None
        ids = await self._records.load(("address", address), lambda: self._instances.instance_ids_by_address(address))
        if len(ids) != 1:
            log.warning("client address without a single instance", address=address, instances=len(ids))
            raise not_found()
        record = await self._records.record(("instance", ids[0]), lambda: self._instances.instance(ids[0]))
        if record.value is None:
            raise not_found()
        return AuthenticatedInstance(record=record, instance=record.value, address=address)
