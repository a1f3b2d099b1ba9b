"""What a request's headers say, read once: a guest's next request has the same ones, but for the request's id.

Reading depends on nothing but the headers, so what was read before is as good as what would be read now. Who asks is not
part of it: that is found anew for every request.
"""

from __future__ import annotations

from dataclasses import dataclass

from openimds.agents.metadata.protocols import Headers
from openimds.agents.metadata.proxy.forwarding import Asker, headers_to_api
from openimds.guest_identity.addresses import Address, mac_from_eui64, parse_address
from openimds.guest_identity.headers import REQUEST_ID, HeaderError, Origin, origin
from openimds.resources.network import Port

MAX_ENTRIES = 2048
MAX_BYTES = 2048
"""Of a request's headers, to be remembered."""

_REQUEST_ID = REQUEST_ID.lower().encode()


@dataclass(slots=True, eq=False)
class Heard:
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
            self._to_api = tuple(headers_to_api(self.headers, Asker(port=port, address=self.address), secret))
            self._port, self._secret = port, secret
        return self._to_api


def without_id(headers: Headers) -> tuple[Headers, bytes]:
    """The headers without the request's id where it is the last one, as our proxies write it; and the id, or nothing."""
    if headers and headers[-1][0].lower() == _REQUEST_ID:
        return headers[:-1], headers[-1][1]
    return headers, b""


class Hearing:
    """`hear(headers)`."""

    def __init__(self) -> None:
        self._heard: dict[Headers, Heard] = {}

    def hear(self, headers: Headers) -> Heard:
        """`headers`: without the request's id. Raises HeaderError."""
        heard = self._heard.get(headers)
        if heard is None:
            heard = _read(headers)
            self._remember(headers, heard)
        return heard

    def _remember(self, headers: Headers, heard: Heard) -> None:
        if sum(len(name) + len(value) for name, value in headers) > MAX_BYTES:
            return
        if len(self._heard) >= MAX_ENTRIES:
            del self._heard[next(iter(self._heard))]
        self._heard[headers] = heard


def _read(headers: Headers) -> Heard:
    where = origin(headers)
    try:
        address = parse_address(where.address)
    except ValueError as error:
        raise HeaderError("X-Forwarded-For", f"X-Forwarded-For: {error}.") from None
    mac = mac_from_eui64(address)
    if mac is None and address.version == 6 and address.is_link_local:
        return Heard(headers, where, address, None)
    return Heard(headers, where, address, mac or str(address))
