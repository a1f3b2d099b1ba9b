"""Who asks: a signed instance id, a provider and an address, or the TCP peer's own address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
from openimds.http.messages import Request, Response
from openimds.imds.instance_cache import CacheEntry, InstanceCache
from openimds.imds.metrics import METRICS
from openimds.metadata.outcome import MetadataError, not_found
from openimds.resources.instance import Instance

log = structlog.get_logger(__name__)

BAD_SIGNATURE = "Invalid proxy request signature."
_SECRET_NAMES = ("current", "previous")


class AskingPort(Protocol):
    @property
    def instance_id(self) -> str: ...
    @property
    def project_id(self) -> str: ...


class Instances(Protocol):
    """The store, as far as who asks is concerned. All raise StoreUnavailable."""

    def instance(self, instance_id: str) -> Instance | None: ...
    def instance_ids_by_address(self, address: str) -> tuple[str, ...]: ...
    def ports_by_provider(self, provider_id: str, address: str) -> Sequence[AskingPort] | None: ...


UpstreamCall = Callable[[Request, str], Awaitable[Response]]
"""Has a request answered by the metadata API. Takes the request and its id. Never raises: a failure is a response."""


class DelegateUpstream(Exception):
    """The client is known, and the metadata API answers its request: the record is not here, or the request changes it."""

    def __init__(self, forward: UpstreamCall, instance_id: str, facts: Mapping[str, object]) -> None:
        """`facts`: fields of the log line."""
        super().__init__(f"a request of the instance {instance_id} is forwarded to the metadata API")
        self.forward = forward
        self.instance_id = instance_id
        self.facts = facts


@dataclass(frozen=True, slots=True)
class AuthenticatedInstance:
    """The instance, and the address it asks from as far as somebody said it."""

    record: CacheEntry
    """The instance's, with what was rendered from it."""
    address: str | None
    secret: str = ""
    """The name of the secret that signed the instance's id in the request itself; empty when the id was found out."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """For the log line: what is known of where the request came from."""
    still: Callable[[], bool] | None = None
    """May the same bytes on the same connection be answered again? Asked each time. None: that is not known."""
    elsewhere: UpstreamCall | None = None
    """Who changes things and asks vendors; None: this service itself."""

    @property
    def instance(self) -> Instance:
        instance: Instance = self.record.answer
        return instance


class AuthError(MetadataError):
    """Refused for who asks, or how often: not even `/`, which anybody may read, is shown."""

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        facts: Mapping[str, object],
    ) -> None:
        """`facts`: for the log line."""
        super().__init__(status, sentence, headers)
        self.facts = facts


class Authenticator(Protocol):
    def at_once(self, request: Request) -> AuthenticatedInstance | None:
        """From what is in memory; None: `asker` is to be asked, which may have to wait. Raises Refusal."""

    async def asker(self, request: Request) -> AuthenticatedInstance:
        """Raises Refusal: 400 for headers, 403 for signatures, 404 for whom nobody knows; or Elsewhere."""


class SignatureAuthenticator:
    """`service_metadata_proxy = True`: a metadata agent found out who asks, and signed it."""

    def __init__(self, instances: Instances, records: InstanceCache, secrets: Sequence[str]) -> None:
        """`secrets`: the current shared secret first."""
        self._instances = instances
        self._records = records
        self._secrets = tuple(secrets)

    def at_once(self, request: Request) -> AuthenticatedInstance | None:
        claim = _claim(request)
        record = self._records.known(("instance", claim.instance_id)) if isinstance(claim, InstanceClaim) else None
        if not isinstance(claim, InstanceClaim) or record is None:
            return None
        return self._asker(claim, record, self._verify(claim.instance_id, claim.signature))

    async def asker(self, request: Request) -> AuthenticatedInstance:
        claim = _claim(request)
        if isinstance(claim, ProviderClaim):
            self._verify(claim.provider_id, claim.signature)
            return await self._asker_by_provider(claim.provider_id, claim.address)
        secret = self._verify(claim.instance_id, claim.signature)
        return self._asker(claim, await self._record(claim.instance_id), secret)

    def _verify(self, signed_id: str, signature: str) -> str:
        """The name of the secret."""
        place = matching_secret(self._secrets, signed_id, signature)
        name = "none" if place is None else _SECRET_NAMES[min(place, 1)]
        METRICS.signed(name)
        if place is None:
            log.warning(
                "a request's signature does not fit: metadata_proxy_shared_secret here ([neutron] of nova.conf) and at "
                "the metadata agent (metadata_agent.ini) must be the same",
                signed_id=signed_id[:64],
            )
            raise MetadataError(403, BAD_SIGNATURE)
        return name

    async def _record(self, instance_id: str) -> CacheEntry:
        return await self._records.record(("instance", instance_id), lambda: self._instances.instance(instance_id))

    def _asker(self, claim: InstanceClaim, record: CacheEntry, secret: str = "") -> AuthenticatedInstance:
        instance: Instance | None = record.answer
        if instance is None:
            log.info("a signed request names an instance that is not known", instance_id=claim.instance_id[:64])
            raise not_found()
        if instance.project_id != claim.tenant_id:
            log.warning("a signed request names another project than its instance's", instance_id=claim.instance_id)
            raise not_found()
        return AuthenticatedInstance(record, claim.address, secret)

    async def _asker_by_provider(self, provider_id: str, address: str) -> AuthenticatedInstance:
        ports = await self._records.ask(
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
        )  # as if it had been signed
        return self._asker(found, await self._record(port.instance_id))


def _claim(request: Request) -> InstanceClaim | ProviderClaim:
    try:
        return provider_claim(request.headers) or instance_claim(request.headers)
    except HeaderError as error:
        raise MetadataError(400, str(error)) from None


class AddressAuthenticator:
    """`service_metadata_proxy = False`: guests reach this server themselves, on one flat network."""

    def __init__(
        self, instances: Instances, records: InstanceCache, strict_hosts: Collection[str] | None = None
    ) -> None:
        """`strict_hosts`: the Hosts that requests may name; None: requests are taken as they come."""
        self._instances = instances
        self._records = records
        self._strict_hosts = strict_hosts

    def at_once(self, request: Request) -> AuthenticatedInstance | None:
        """None: on one flat network few ask at a time."""

    async def asker(self, request: Request) -> AuthenticatedInstance:
        refusal = rejection_reason(request.headers, self._strict_hosts) if self._strict_hosts is not None else None
        if refusal is not None:
            raise MetadataError(403, refusal)
        if values(request.headers, INSTANCE_ID):
            log.warning("X-Instance-ID is ignored: service_metadata_proxy is off", peer=request.peer)
        try:
            address = canonical(request.peer)
        except ValueError:
            log.warning("a request has no address to know its instance by", peer=request.peer)
            raise not_found() from None
        ids = await self._records.ask(("address", address), lambda: self._instances.instance_ids_by_address(address))
        if len(ids) != 1:
            log.warning("an address is not one instance's", address=address, instances=len(ids))
            raise not_found()
        record = await self._records.record(("instance", ids[0]), lambda: self._instances.instance(ids[0]))
        if record.answer is None:
            raise not_found()
        return AuthenticatedInstance(record, address)
