"""Property tests of the rules: heads, bodies, paths, identity headers and forwarded headers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.security.instances import ALPHA, BETA, SECRET

from openimds.agents.metadata.proxy.forwarder import IdentifiedClient, signed_headers
from openimds.guest_identity.addresses import parse_address
from openimds.guest_identity.headers import HeaderError, instance_claim, is_identity_claim, origin, provider_claim
from openimds.guest_identity.request_policy import rejection_reason
from openimds.guest_identity.signature import sign, verify
from openimds.http.messages import Request
from openimds.http.server.limits import HttpError, Limits
from openimds.http.server.request_parser import RequestParser
from openimds.metadata.paths import MalformedTargetError, parse_path
from openimds.resources.network import Port

NAMES = [
    b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"X-Instance-ID", b"X_Instance_ID",
    b"X-Tenant-ID", b"X-Instance-ID-Signature", b"X-Forwarded-For", b"X-Neutron-Network-ID", b"X-Metadata-Provider",
    b"Accept", b"If-None-Match",
]  # fmt: skip
GUEST_FORWARDED = b"X-Openimds-Guest-Forwarded"
"""The agent's header about the headers of a guest."""
VALUES = [b"", b"0", b"5", b"05", b"+5", b"chunked", b"close", b"keep-alive", b"100-continue", b"a", b"10.0.0.5"]
names = st.sampled_from(NAMES) | st.binary(max_size=12)
values = st.sampled_from(VALUES) | st.binary(max_size=20)
headers = st.lists(st.tuples(names, values), max_size=8)
ends = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n ", b"\x00"])
colons = st.sampled_from([b": "] * 8 + [b":", b" :", b"\t:", b":\t", b""])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Valid and almost valid requests."""
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"TRACE", b"get", b"G T"]))
    target = draw(st.sampled_from([b"/", b"/a b", b"*", b"http://h/x", b"/%00"]) | st.binary(max_size=10))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b""]))
    fields = b"".join(name + draw(colons) + value + draw(ends) for name, value in draw(headers))
    return method + b" " + target + b" " + version + draw(ends) + fields + draw(ends) + draw(st.binary(max_size=30))


def parse(pieces: Sequence[bytes]) -> tuple[list[Request], int | None]:
    """The requests in these pieces, and the status of the final refusal. None if there is no refusal."""
    conversation, found = RequestParser(Limits(header_bytes=4096)), []
    try:
        for piece in pieces:
            conversation.receive(piece)
            while incoming := conversation.next():
                found.append(incoming.request)
                if not incoming.keep_alive:
                    return found, None
    except HttpError as refusal:
        return found, refusal.status
    return found, None


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages(), min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=6))
@example([b"GET / HTTP/1.1\r\n\r\n\r\n\r\n"], list(range(30)))
@example([b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"], [1, 2, 3])
def test_parsed_requests_do_not_depend_on_the_cuts(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    whole, refusal = parse([data])
    pieces, other = parse([data[start:end] for start, end in pairwise(places)])
    assert whole == pieces
    assert (refusal is None) == (other is None)
    for request in whole:
        assert b"\n" not in request.target
        for name, value in request.headers:
            assert name
            assert not {0, 10, 13} & {*name, *value}


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=60) | st.text("/.%2eE0fF?#a", max_size=40).map(str.encode))
def test_parsed_path_contains_no_traversal(target: bytes) -> None:
    try:
        path = parse_path(target)
    except MalformedTargetError:
        return
    assert not {"", ".", ".."} & set(path.parts)
    assert not any("/" in part for part in path.parts)


@settings(max_examples=1000, deadline=None)
@given(headers)
def test_identity_headers_are_read_or_refused(given_headers: list[tuple[bytes, bytes]]) -> None:
    for read in (instance_claim, provider_claim, origin):
        try:
            read(given_headers)
        except HeaderError:
            continue
    rejection_reason(given_headers, ("a",))


@settings(max_examples=1000, deadline=None)
@given(headers)
def test_signed_headers_beside_other_headers_are_read_or_refused(given_headers: list[tuple[bytes, bytes]]) -> None:
    ours = [(name.encode(), value.encode()) for name, value in ALPHA.claim.items()]
    for joined in (ours + given_headers, given_headers + ours):
        try:
            claim = instance_claim(joined)
        except HeaderError:
            continue
        assert (claim.instance_id, claim.tenant_id) == (ALPHA.uuid, ALPHA.project_id)
        assert verify([SECRET], claim.instance_id, claim.signature)


@settings(max_examples=1000, deadline=None)
@given(headers)
def test_agent_forwards_only_its_own_identity_headers(given_headers: list[tuple[bytes, bytes]]) -> None:
    port = Port(id="p", network_id="n", project_id=ALPHA.project_id, mac_address="m", device_id=ALPHA.uuid)
    client = IdentifiedClient(port=port, address=parse_address(ALPHA.address))
    forwarded = signed_headers(given_headers, client, SECRET)
    identity = [(name, value) for name, value in forwarded if is_identity_claim(name) and name != GUEST_FORWARDED]
    assert identity == [(name.encode(), ALPHA.claim[name].encode()) for name in
                    ("X-Forwarded-For", "X-Instance-ID", "X-Tenant-ID", "X-Instance-ID-Signature")]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=80))
def test_only_the_right_signature_is_valid(signature: str) -> None:
    good = sign(SECRET, ALPHA.uuid)
    assert verify([SECRET], ALPHA.uuid, signature) == (signature == good)
    assert not verify([SECRET], BETA.uuid, good)


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789abcdef:.[]%x ", max_size=45))
def test_address_is_parsed_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError as error:
        pytest.fail(str(error)) if "is not an IP address" not in str(error) else None
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", " ", "[", "::1%", "10.0.0.5, 10.0.0.6", "010.0.0.5", "0x0a000005", "167772165"])
def test_unusual_address_is_refused(text: str) -> None:
    if text == "::1%":
        assert str(parse_address(text)) == "::1"
        return
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(text)
