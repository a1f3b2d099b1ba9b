"""The headers that carry an identity from hop to hop, and what makes them unacceptable.

Rules of this file:

1. A header counts only in its exact spelling (letter case apart): `X_Instance_ID` is not `X-Instance-ID`. Some servers
   join the two, which is how a guest's own copy would slip through.
2. An identity header that arrives twice is refused by name: whichever copy one took, it might be the forged one.
3. When identity headers are passed on, every spelling of them is dropped first, then ours are set.

Did the guest's own request carry X-Forwarded-For? Then a proxy in the guest passes on what somebody else sent.

Does root of the guest ask? Only root opens a connection from a port below 1024 (Linux: net.ipv4.ip_unprivileged_port_start).
"""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from functools import lru_cache

Headers = Sequence[tuple[bytes, bytes]]
"""As received: (name, value), in order, repeated ones repeated."""

INSTANCE_ID = "X-Instance-ID"
SIGNATURE = "X-Instance-ID-Signature"
TENANT_ID = "X-Tenant-ID"
FORWARDED_FOR = "X-Forwarded-For"
PROVIDER = "X-Metadata-Provider"
PROVIDER_SIGNATURE = "X-Metadata-Provider-Signature"
NETWORK_ID = "X-Neutron-Network-ID"
ROUTER_ID = "X-Neutron-Router-ID"
REQUEST_ID = "X-Openstack-Request-Id"

_CLAIMS = frozenset(
    name.lower().encode()
    for name in (
        INSTANCE_ID,
        SIGNATURE,
        TENANT_ID,
        FORWARDED_FOR,
        PROVIDER,
        PROVIDER_SIGNATURE,
        NETWORK_ID,
        ROUTER_ID,
        "X-OVN-Network-ID",
        "X-Project-ID",
        "X-Real-IP",
        "Forwarded",
    )
)
_CLAIM_PREFIXES = (b"x-instance-id", b"x-metadata-provider", b"x-neutron-", b"x-ovn-", b"x-forwarded-", b"x-openimds-")


class HeaderError(Exception):
    """A header that identity needs is missing, repeated or unreadable: the sender's fault, 400.

    `str(error)` is a sentence that names the header.
    """

    def __init__(self, header: str, sentence: str) -> None:
        super().__init__(sentence)
        self.header = header


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceClaim:
    """What a signed request says: this instance of this tenant asks."""

    instance_id: str
    signature: str
    tenant_id: str
    address: str | None
    """X-Forwarded-For as received, when there is one: only a fallback for `local-ipv4`, never an identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderClaim:
    """The load balancer's form: somebody behind this provider's networks, at this address, asks."""

    provider_id: str
    signature: str
    """Empty when none was sent, which no secret signs."""
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a namespace's proxy says the request came from: at most one of the two ids is set.

    With neither, the request came from nowhere that anything could be found on.
    """

    network_id: str | None
    router_id: str | None
    address: str


def values(headers: Headers, name: str) -> list[str]:
    """All values of the header, in order. Bytes beyond ASCII are read as Latin-1, as HTTP has them."""
    found = _index(headers).get(_lower(name))
    return [value.decode("latin-1") for value in found] if found else []


def header_names(headers: Headers) -> KeysView[bytes]:
    """All names, in lower case."""
    return _index(headers).keys()


_indexed: tuple[Headers, dict[bytes, list[bytes]]] = ((), {})
"""The last request's: a dozen questions are asked of one after the other."""


def _index(headers: Headers) -> dict[bytes, list[bytes]]:
    global _indexed  # noqa: PLW0603 - a cache of one
    known, index = _indexed
    if known is headers:
        return index
    index = {}
    for name, value in headers:
        index.setdefault(name.lower(), []).append(value)
    if isinstance(headers, tuple):  # what can change is looked at each time
        _indexed = headers, index
    return index


@lru_cache(maxsize=256)
def _lower(name: str) -> bytes:
    return name.lower().encode()


def single(headers: Headers, name: str) -> str | None:
    """The header's only value, None without it. Raises HeaderError when it was sent more than once."""
    found = values(headers, name)
    if len(found) > 1:
        raise HeaderError(name, f"Multiple {name} headers found within request.")
    return found[0] if found else None


def required(headers: Headers, name: str) -> str:
    """The header's only value. Raises HeaderError when it is missing or was sent more than once."""
    value = single(headers, name)
    if value is None:
        raise HeaderError(name, f"{name} header is missing from request.")
    return value


def instance_claim(headers: Headers) -> InstanceClaim:
    """Read the signed form. Raises HeaderError, checked in nova's order: instance id, signature, tenant id."""
    instance_id = required(headers, INSTANCE_ID)
    signature = required(headers, SIGNATURE)
    tenant_id = required(headers, TENANT_ID)
    forwarded = values(headers, FORWARDED_FOR)
    return InstanceClaim(
        instance_id=instance_id, signature=signature, tenant_id=tenant_id, address=forwarded[0] if forwarded else None
    )


def provider_claim(headers: Headers) -> ProviderClaim | None:
    """Read the provider form; None when the request has no (or an empty) X-Metadata-Provider. Raises HeaderError."""
    provider_id = single(headers, PROVIDER)
    if not provider_id:
        return None
    address = required(headers, FORWARDED_FOR)
    return ProviderClaim(
        provider_id=provider_id,
        signature=single(headers, PROVIDER_SIGNATURE) or "",
        address=address.split(",")[0].strip(),
    )


def origin(headers: Headers) -> Origin:
    """Read what the namespace's proxy set. Raises HeaderError when both ids, or an id twice, or no address is there.

    The address is the last one of the last X-Forwarded-For: a proxy with HAProxy's `option forwardfor` appends its own
    behind whatever the guest sent (HAProxy's manual: "the server must be configured to always use the last
    occurrence").
    """
    network_id = single(headers, NETWORK_ID)
    router_id = single(headers, ROUTER_ID)
    if network_id and router_id:
        raise HeaderError(NETWORK_ID, f"{NETWORK_ID} and {ROUTER_ID} exclude each other; the request has both.")
    forwarded = values(headers, FORWARDED_FOR)
    if not forwarded:
        raise HeaderError(FORWARDED_FOR, f"{FORWARDED_FOR} header is missing from request.")
    return Origin(
        network_id=network_id or None, router_id=router_id or None, address=forwarded[-1].split(",")[-1].strip()
    )


def is_identity_claim(name: bytes) -> bool:
    """Is this a header that says who asks, in whatever spelling (`x_instance_id`, `X-INSTANCE-ID`)?"""
    plain = name.strip().lower().replace(b"_", b"-")
    return plain in _CLAIMS or plain.startswith(_CLAIM_PREFIXES)


GUEST_FORWARDED = "X-Openimds-Guest-Forwarded"
"""Says so from hop to hop: our namespace proxies replace the guest's X-Forwarded-For by their own, and set this."""


def was_forwarded(headers: Headers, *, own_addresses: int) -> bool:
    """`own_addresses`: how many addresses in X-Forwarded-For are not the guest's but of the hops since.

    At the metadata agent 1: stock neutron's namespace proxies append theirs behind what the guest sent. At the
    metadata API 1 behind an agent, 0 where guests come themselves, whose own word on hops in between is none.
    """
    if values(headers, "Forwarded") or (own_addresses and values(headers, GUEST_FORWARDED)):
        return True
    return sum(len(value.split(",")) for value in values(headers, FORWARDED_FOR)) > own_addresses


PRIVILEGED = "X-Openimds-Guest-Privileged"
"""Says so from hop to hop. Our namespace proxies drop a guest's own and set this where it is true; on nearly all requests
it is not, which so stay equal to each other, byte for byte."""
FIRST_UNPRIVILEGED_PORT = 1024


def is_privileged(port: int) -> bool:
    return 0 < port < FIRST_UNPRIVILEGED_PORT


def was_privileged(headers: Headers) -> bool:
    """As the hop before says."""
    return bool(values(headers, PRIVILEGED))
