"""The headers that carry an identity between hops, and their validation.

Rules of this file:

1. A header counts only in its exact spelling, apart from letter case: `X_Instance_ID` is not `X-Instance-ID`. Some
   servers treat both as the same header, which would let a client's own copy pass.
2. An identity header that occurs twice is rejected by name, because either copy could be forged.
3. A hop that sets identity headers drops every spelling of them first.

Further headers describe the client's own request. A request with X-Forwarded-For or Forwarded comes from a proxy in
the instance, on behalf of another program. A request from a port below 1024 comes from a privileged process (Linux:
net.ipv4.ip_unprivileged_port_start).
"""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from functools import lru_cache

Headers = Sequence[tuple[bytes, bytes]]
"""Pairs of name and value in the received order, including repeated ones."""

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
    """An identity header is missing, repeated or malformed (400). The message names the header."""

    def __init__(self, header: str, sentence: str) -> None:
        super().__init__(sentence)
        self.header = header


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceClaim:
    """The identity in a signed request: an instance and its tenant."""

    instance_id: str
    signature: str
    tenant_id: str
    address: str | None
    """The received X-Forwarded-For. Used as a fallback for `local-ipv4`, never as an identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderClaim:
    """The identity in a request of a load balancer: a metadata provider, and a client address on its networks."""

    provider_id: str
    signature: str
    """Empty without a signature. An empty signature is never valid."""
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a request in the headers of a namespace proxy. At most one of the two IDs is set.

    Without an ID, no port can be found.
    """

    network_id: str | None
    router_id: str | None
    address: str


def values(headers: Headers, name: str) -> list[str]:
    """Returns all values of a header in order. Bytes outside ASCII are decoded as Latin-1, as in HTTP."""
    found = _index(headers).get(_lower(name))
    return [value.decode("latin-1") for value in found] if found else []


def header_names(headers: Headers) -> KeysView[bytes]:
    """Returns all header names in lower case."""
    return _index(headers).keys()


_indexed: tuple[Headers, dict[bytes, list[bytes]]] = ((), {})
"""The index of the last request, because a request needs about a dozen lookups in a row."""


def _index(headers: Headers) -> dict[bytes, list[bytes]]:
    global _indexed  # noqa: PLW0603 - a cache with one entry
    known, index = _indexed
    if known is headers:
        return index
    index = {}
    for name, value in headers:
        index.setdefault(name.lower(), []).append(value)
    if isinstance(headers, tuple):  # a mutable sequence is not cached
        _indexed = headers, index
    return index


@lru_cache(maxsize=256)
def _lower(name: str) -> bytes:
    return name.lower().encode()


def single(headers: Headers, name: str) -> str | None:
    """Returns the only value of a header. None without the header. Raises HeaderError if it occurs more than once."""
    found = values(headers, name)
    if len(found) > 1:
        raise HeaderError(name, f"Multiple {name} headers found within request.")
    return found[0] if found else None


def required(headers: Headers, name: str) -> str:
    """Returns the only value of a header. Raises HeaderError if it is missing or occurs more than once."""
    value = single(headers, name)
    if value is None:
        raise HeaderError(name, f"{name} header is missing from request.")
    return value


def instance_claim(headers: Headers) -> InstanceClaim:
    """Reads a signed request. Raises HeaderError, in Nova's order: instance ID, signature, tenant ID."""
    instance_id = required(headers, INSTANCE_ID)
    signature = required(headers, SIGNATURE)
    tenant_id = required(headers, TENANT_ID)
    forwarded = values(headers, FORWARDED_FOR)
    return InstanceClaim(
        instance_id=instance_id, signature=signature, tenant_id=tenant_id, address=forwarded[0] if forwarded else None
    )


def provider_claim(headers: Headers) -> ProviderClaim | None:
    """Reads a provider request. None without a value of X-Metadata-Provider. Raises HeaderError."""
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
    """Reads the headers of a namespace proxy. Raises HeaderError for both IDs, a repeated ID, or a missing address.

    The last address of the last X-Forwarded-For counts: HAProxy's `option forwardfor` appends its own header to the
    client's (HAProxy's manual: "the server must be configured to always use the last occurrence").
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
    """Returns whether this is an identity header in any spelling (`x_instance_id`, `X-INSTANCE-ID`)."""
    plain = name.strip().lower().replace(b"_", b"-")
    return plain in _CLAIMS or plain.startswith(_CLAIM_PREFIXES)


GUEST_FORWARDED = "X-Openimds-Guest-Forwarded"
"""Set by a namespace proxy that replaced the client's own X-Forwarded-For."""


def was_forwarded(headers: Headers, *, own_addresses: int) -> bool:
    """Returns whether the client's own request was forwarded. `own_addresses`: the addresses that later hops added.

    1 at the metadata agent, because stock Neutron's namespace proxies append an address, and at the metadata API behind
    an agent. 0 if clients connect directly; GUEST_FORWARDED is then ignored.
    """
    if values(headers, "Forwarded") or (own_addresses and values(headers, GUEST_FORWARDED)):
        return True
    return sum(len(value.split(",")) for value in values(headers, FORWARDED_FOR)) > own_addresses


PRIVILEGED = "X-Openimds-Guest-Privileged"
"""Set by a namespace proxy for a request from a privileged port, after it dropped the client's own header. The header is
absent otherwise, so that nearly all requests of a client have equal bytes."""
FIRST_UNPRIVILEGED_PORT = 1024


def is_privileged(port: int) -> bool:
    return 0 < port < FIRST_UNPRIVILEGED_PORT


def was_privileged(headers: Headers) -> bool:
    """Returns whether the previous hop marked the request as privileged."""
    return bool(values(headers, PRIVILEGED))


TOKEN_HEADERS_PASSED = "X-Openimds-Token-Headers"  # noqa: S105 - the name of a header
"""Set by the metadata agent on a PUT, because it forwards the headers of session tokens. Neutron's agent drops them, and
drops every header of the client with this name too."""


def drops_token_headers(headers: Headers) -> bool:
    """Returns whether the agent that signed a PUT drops the headers of session tokens."""
    return not values(headers, TOKEN_HEADERS_PASSED)
