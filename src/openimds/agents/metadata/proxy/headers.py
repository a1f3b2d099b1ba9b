"""The headers that are forwarded to the metadata API and back to the client. Both directions have an allow-list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openimds.agents.metadata.protocols import Headers
from openimds.guest_identity import headers as names
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.headers import GUEST_FORWARDED, PRIVILEGED, was_forwarded, was_privileged
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
"""No identity header is among them, in any spelling."""

_TO_GUEST = frozenset(
    {
        b"allow",
        b"cache-control",
        b"content-encoding",
        b"content-length",  # of a response to HEAD, because the HTTP server counts only bodies that it writes
        b"content-type",
        b"etag",
        b"retry-after",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedClient:
    """The port of a client, and the address that it uses."""

    port: Port
    address: Address


def signed_headers(guest_headers: Headers, client: IdentifiedClient, secret: str) -> list[tuple[bytes, bytes]]:
    """Returns the client's headers that may pass, and the signed identity. The request ID is not among them."""
    instance_id = client.port.device_id
    ours = (
        (names.FORWARDED_FOR, str(client.address)),
        (names.INSTANCE_ID, instance_id),
        (names.TENANT_ID, client.port.project_id),
        (names.SIGNATURE, sign(secret, instance_id)),
        *(((GUEST_FORWARDED, "1"),) if was_forwarded(guest_headers, own_addresses=1) else ()),
        *(((PRIVILEGED, "1"),) if was_privileged(guest_headers) else ()),
    )
    passed = [(name, value) for name, value in guest_headers if name.lower() in _FROM_GUEST]
    return passed + [(name.encode(), value.encode("latin-1", "replace")) for name, value in ours]


def guest_response(answer: Response, request_id: str) -> Response:
    """Returns the metadata API's response as the client receives it. Status, body and content headers are unchanged."""
    return Response(
        status=answer.status,
        headers=(*_passed(answer.headers), (REQUEST_ID, request_id.encode())),
        body=answer.body,
    )


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() in _TO_GUEST]
