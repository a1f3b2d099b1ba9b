"""What goes on to the metadata API, and what of its answer goes back. Both are lists of what may pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openimds.agents.metadata.protocols import Answer, Headers, Reply
from openimds.guest_identity import headers as names
from openimds.guest_identity.addresses import Address
from openimds.guest_identity.forwarded import GUEST_FORWARDED, was_forwarded
from openimds.guest_identity.privileged import PRIVILEGED, was_privileged
from openimds.guest_identity.signature import sign
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
class Asker:
    """Who asks."""

    port: Port
    address: Address


def headers_to_api(guest_headers: Headers, asker: Asker, secret: str) -> list[tuple[bytes, bytes]]:
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


def reply_of(answer: Answer, request_id: str) -> Reply:
    """The API's answer as the guest gets it: status, body and what describes the body are unchanged."""
    return Reply(
        status=answer.status,
        headers=(*_passed(answer.headers), (REQUEST_ID, request_id.encode())),
        body=answer.body,
    )


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() in _TO_GUEST]
