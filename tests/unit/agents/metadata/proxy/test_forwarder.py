"""The headers that pass between a client and the metadata API."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from openimds.agents.metadata.proxy.forwarder import IdentifiedClient, guest_response, signed_headers
from openimds.http.messages import Response
from openimds.resources.network import Port

PORT = Port(id="p", network_id="n", project_id="t", mac_address="fa:16:3e:00:00:01", device_id="vm")
CLIENT = IdentifiedClient(port=PORT, address=ip_address("10.0.0.5"))
FORWARDED = b"X-Openimds-Guest-Forwarded"
HOP = (b"X-Forwarded-For", b"10.0.0.5")


def sent(*headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    passed = signed_headers(headers, CLIENT, "secret")
    assert len({name for name, _ in passed}) == len(passed)
    return dict(passed)


def test_headers_of_tokens_and_documents_are_forwarded() -> None:
    headers = (
        (b"X-aws-ec2-metadata-token", b"t"),
        (b"x-aws-ec2-metadata-token-ttl-seconds", b"60"),
        (b"If-None-Match", b'"e"'),
    )
    assert set(headers) <= set(sent(HOP, *headers).items())


@pytest.mark.parametrize(
    ("headers", "forwarded"),
    [
        ((HOP,), False),
        ((HOP, (FORWARDED, b"1")), True),
        (((b"X-Forwarded-For", b"203.0.113.9, 10.0.0.5"),), True),
        (((b"X-Forwarded-For", b"203.0.113.9"), HOP), True),
    ],
)
def test_a_forwarded_request_is_marked_as_forwarded(headers, forwarded: bool) -> None:
    passed = sent(*headers)
    assert (passed.get(FORWARDED) == b"1") is forwarded
    assert passed[b"X-Forwarded-For"] == b"10.0.0.5"


def test_only_a_put_is_marked_as_passing_token_headers() -> None:
    guests = ((b"X-Openimds-Token-Headers", b"forged"), HOP)
    marks = {
        method: dict(signed_headers(guests, CLIENT, "secret", method=method)).get(b"X-Openimds-Token-Headers")
        for method in ("GET", "PUT", "POST")
    }
    assert marks == {"GET": None, "PUT": b"1", "POST": None}


def test_a_response_has_only_the_headers_for_its_client() -> None:
    inner = ((b"X-Openimds-Hop-Limit", b"1"), (b"Server", b"x"), (b"Set-Cookie", b"x"))
    outer = (
        (b"ETag", b'"e"'), (b"Allow", b"PUT"), (b"Retry-After", b"1"), (b"Cache-Control", b"no-store"),
        (b"X-aws-ec2-metadata-token-ttl-seconds", b"60"),
    )  # fmt: skip
    response = guest_response(Response(status=304, headers=(*inner, *outer)), "req-1")
    assert (response.status, tuple(response.headers)) == (304, (*outer, (b"X-Openstack-Request-Id", b"req-1")))
