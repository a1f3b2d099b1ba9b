"""What goes on to the metadata API, and what of its answer goes back. Both are lists of what may pass.

What a request's headers say, read once: a guest's next request has the same ones, but for the request's id.

Reading depends on nothing but the headers, so what was read before is as good as what would be read now. Who asks is not
part of it: that is found anew for every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openimds.agents.metadata.protocols import Headers
from openimds.guest_identity import headers as names
from openimds.guest_identity.addresses import Address, mac_from_eui64, parse_address
from openimds.guest_identity.headers import (
    GUEST_FORWARDED,
    PRIVILEGED,
    HeaderError,
    Origin,
    origin,
    was_forwarded,
    was_privileged,
)
from openimds.guest_identity.signature import sign
from openimds.http.messages import Response
from openimds.resources.network import Port

REQUEST_ID = names.REQUEST_ID.encode()

_FROM_GUEST = frozenset(
    {
        b"accept",
        b"content-type",
        b"if-none-match",
        b"user-agent",
        b"x-aws-ec2-metadata-token",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)
"""Nothing that says who asks can be among them, however it is spelt."""

_TO_GUEST = frozenset(
    {
        b"allow",
        b"cache-control",
        b"content-encoding",
        b"content-length",  # of an answer to HEAD; otherwise the server counts
        b"content-type",
        b"etag",
        b"retry-after",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedClient:
    """Who asks."""

    port: Port
    address: Address


def signed_headers(guest_headers: Headers, asker: IdentifiedClient, secret: str) -> list[tuple[bytes, bytes]]:
    """The guest's headers that may pass, and ours: who asks, signed. The request's id is not among them."""
    instance_id = asker.port.device_id
    ours = (
        (names.FORWARDED_FOR, str(asker.address)),
        (names.INSTANCE_ID, instance_id),
        (names.TENANT_ID, asker.port.project_id),
        (names.SIGNATURE, sign(secret, instance_id)),
        *(((GUEST_FORWARDED, "1"),) if was_forwarded(guest_headers, own_addresses=1) else ()),
        *(((PRIVILEGED, "1"),) if was_privileged(guest_headers) else ()),
    )
    passed = [(name, value) for name, value in guest_headers if name.lower() in _FROM_GUEST]
    return passed + [(name.encode(), value.encode("latin-1", "replace")) for name, value in ours]


def guest_response(answer: Response, request_id: str) -> Response:
    """The API's answer as the guest gets it: status, body and what describes the body are unchanged."""
    return Response(
        status=answer.status,
        headers=(*_passed(answer.headers), (REQUEST_ID, request_id.encode())),
        body=answer.body,
    )


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() in _TO_GUEST]


MAX_ENTRIES = 2048
MAX_BYTES = 2048
"""Of a request's headers, to be remembered."""

_REQUEST_ID = REQUEST_ID.lower()


@dataclass(slots=True, eq=False)
class ParsedHeaders:
    """Where a request comes from, and what of its headers goes on."""

    headers: Headers
    """Without the request's id."""
    origin: Origin
    address: Address
    at: str | None
    """What ports are found by: the address, canonical, or the MAC in it; None: a link-local address that holds none."""
    _port: Port | None = None
    _secret: str = ""
    _to_api: tuple[tuple[bytes, bytes], ...] = ()

    def to_api(self, port: Port, secret: str) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of the signed request, without the request's id; made anew for another port or secret."""
        if port is not self._port or secret is not self._secret:
            self._to_api = tuple(
                signed_headers(self.headers, IdentifiedClient(port=port, address=self.address), secret)
            )
            self._port, self._secret = port, secret
        return self._to_api


def without_id(headers: Headers) -> tuple[Headers, bytes]:
    """The headers without the request's id where it is the last one, as our proxies write it; and the id, or nothing."""
    if headers and headers[-1][0].lower() == _REQUEST_ID:
        return headers[:-1], headers[-1][1]
    return headers, b""


class HeaderCache:
    """`hear(headers)`."""

    def __init__(self) -> None:
        self._heard: dict[Headers, ParsedHeaders] = {}

    def hear(self, headers: Headers) -> ParsedHeaders:
        """`headers`: without the request's id. Raises HeaderError."""
        heard = self._heard.get(headers)
        if heard is None:
            heard = _read(headers)
            self._remember(headers, heard)
        return heard

    def _remember(self, headers: Headers, heard: ParsedHeaders) -> None:
        if sum(len(name) + len(value) for name, value in headers) > MAX_BYTES:
            return
        if len(self._heard) >= MAX_ENTRIES:
            del self._heard[next(iter(self._heard))]
        self._heard[headers] = heard


def _read(headers: Headers) -> ParsedHeaders:
    where = origin(headers)
    try:
        address = parse_address(where.address)
    except ValueError as error:
        raise HeaderError("X-Forwarded-For", f"X-Forwarded-For: {error}.") from None
    mac = mac_from_eui64(address)
    if mac is None and address.version == 6 and address.is_link_local:
        return ParsedHeaders(headers, where, address, None)
    return ParsedHeaders(headers, where, address, mac or str(address))
