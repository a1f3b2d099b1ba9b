"""Where a request comes from, by mode.

`ConnectionOrigins` (`metadata_proxy = direct`) reads the connection: the listener is the network or the router, and the
kernel shows the client's address and MAC. `ProxyOrigins` (`metadata_proxy = haproxy`) reads the headers that the
namespace's proxy sets. Only the proxy's user can open the agent's unix socket.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Protocol

from cachetools import FIFOCache

from openimds.agents.metadata.lookup.resolver import ClientOrigin
from openimds.agents.metadata.protocols import Headers
from openimds.agents.metadata.proxy.forwarder import rejected_method
from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.headers import (
    FORWARDED_FOR,
    GUEST_FORWARDED,
    PRIVILEGED,
    REQUEST_ID,
    HeaderError,
    is_privileged,
    origin,
)
from openimds.guest_identity.port_match import Binding
from openimds.guest_identity.request_policy import rejection_reason
from openimds.http.messages import Request
from openimds.imds.authenticators import AuthError

MAX_ENTRIES = 2048
MAX_HEADER_BYTES = 2048
"""The maximum size of headers that are cached."""
_PRIVILEGED = PRIVILEGED.lower().encode()
_SET_BY_PROXY = frozenset({_PRIVILEGED, GUEST_FORWARDED.lower().encode()})
_REQUEST_ID = REQUEST_ID.lower().encode()


class Origins(Protocol):
    """The differences between the two modes."""

    has_plain_errors: bool
    """True if the text of an error is the sentence alone, without the status."""

    def admit(self, request: Request) -> None:
        """Raises AuthError (403, 405, 411)."""

    def origin(self, request: Request) -> ClientOrigin:
        """Raises AuthError (400)."""

    def proxied_headers(self, binding: Binding, request: Request) -> Headers:
        """Returns the headers of the request as a namespace proxy sends them to the agent."""


class ConnectionOrigins:
    """Origins of connections that clients open to the agent themselves."""

    has_plain_errors = False

    def __init__(self, strict_hosts: Collection[str] | None) -> None:
        """`strict_hosts`: the allowed values of Host; forwarded requests are rejected too. None if all are allowed."""
        self._strict_hosts = strict_hosts

    def admit(self, request: Request) -> None:
        hosts = self._strict_hosts
        reason = rejection_reason(request.headers, hosts) if hosts is not None else None
        if reason is not None:
            raise AuthError(HTTPStatus.FORBIDDEN, reason, facts=origin_facts(self.origin(request)))

    def origin(self, request: Request) -> ClientOrigin:
        return ClientOrigin(request.listener, request.peer, request.mac)

    def proxied_headers(self, binding: Binding, request: Request) -> Headers:
        # The address of the connection follows the client's own X-Forwarded-For and therefore counts.
        known = [(FORWARDED_FOR.encode(), str(binding.source.address).encode())]
        if is_privileged(request.peer_port):
            known.append((_PRIVILEGED, b"1"))
        return [*((name, value) for name, value in request.headers if name.lower() not in _SET_BY_PROXY), *known]


class ProxyOrigins:
    """Origins of requests from namespace proxies. The result for equal headers is cached."""

    has_plain_errors = True

    def __init__(self) -> None:
        self._cache: FIFOCache[Headers, ClientOrigin] = FIFOCache(MAX_ENTRIES)

    def admit(self, request: Request) -> None:
        rejected = rejected_method(request)
        if rejected is not None:
            raise AuthError(rejected.status, rejected.sentence, rejected.headers, facts={}, is_plain=True)

    def origin(self, request: Request) -> ClientOrigin:
        headers = _without_request_id(request.headers)
        try:
            return self._cache[headers]
        except KeyError:
            return self._read(headers)

    def proxied_headers(self, _binding: Binding, request: Request) -> Headers:
        return request.headers

    def _read(self, headers: Headers) -> ClientOrigin:
        try:
            where = _origin_of(headers)
        except HeaderError as error:
            facts = {"outcome": "malformed", "reason": str(error)}
            raise AuthError(HTTPStatus.BAD_REQUEST, str(error), facts=facts, is_plain=True) from None
        if sum(len(name) + len(value) for name, value in headers) <= MAX_HEADER_BYTES:
            self._cache[headers] = where
        return where


def origin_facts(where: ClientOrigin) -> Mapping[str, object]:
    """Returns the log fields of an origin whose port is unknown."""
    kind, _, scope_id = where.listener.partition(":")
    scope = {f"{kind}_id": scope_id} if scope_id else {}
    return {**scope, "source": where.peer, **({"mac": where.mac} if where.mac else {})}


def _origin_of(headers: Headers) -> ClientOrigin:
    """Raises HeaderError."""
    named = origin(headers)
    try:
        address = parse_address(named.address)
    except ValueError as error:
        raise HeaderError(FORWARDED_FOR, f"{FORWARDED_FOR}: {error}.") from None
    if named.network_id:
        return ClientOrigin(f"network:{named.network_id}", str(address))
    return ClientOrigin(f"router:{named.router_id}" if named.router_id else "", str(address))


def _without_request_id(headers: Headers) -> Headers:
    """Our proxies write the request ID, which differs for each request, as the last header."""
    return headers[:-1] if headers and headers[-1][0].lower() == _REQUEST_ID else headers
