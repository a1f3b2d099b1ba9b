"""Checklist rows 13, 15, 17 and 18: sizes, request smuggling and slow clients."""

from __future__ import annotations

import socket

import pytest
from tests.security.instances import ALPHA, BETA, request
from tests.security.stage import Cloud
from tests.waiting import HANG_SECONDS

from openimds.http.server.limits import HttpError
from openimds.http.server.request_parser import RequestParser
from openimds.programs.metadata_api.worker import LIMITS

HOSTNAME = "/latest/meta-data/hostname"
CLAIM = "".join(f"{name}: {value}\r\n" for name, value in ALPHA.claim.items()).encode()
SMUGGLED = request("GET", HOSTNAME, BETA.claim)
"""A signed request for beta as a body. A server that parses it as a request returns beta's data."""


def post(*fields: bytes, body: bytes) -> bytes:
    return (
        b"\r\n".join([b"POST /openstack/latest/password HTTP/1.1", b"Host: a", b"Connection: close", *fields])
        + b"\r\n"
        + CLAIM
        + b"\r\n"
        + body
    )


L = b"Content-Length: %d" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked"
REFUSED = [
    ("the length twice", post(L, b"Content-Length: 0", body=SMUGGLED)),
    ("the same length twice", post(L, L, body=SMUGGLED)),
    ("two lengths in one", post(b"Content-Length: 0, %d" % len(SMUGGLED), body=SMUGGLED)),
    ("a length with a sign", post(b"Content-Length: +0", body=SMUGGLED)),
    ("a negative length", post(b"Content-Length: -1", body=SMUGGLED)),
    ("a hexadecimal length", post(b"Content-Length: 0x0", body=SMUGGLED)),
    ("a length with a blank in it", post(b"Content-Length: 0 0", body=SMUGGLED)),
    ("an empty length", post(b"Content-Length:", body=SMUGGLED)),
    ("a length of many digits", post(b"Content-Length: " + b"0" * 400, body=SMUGGLED)),
    ("a length beside chunks", post(L, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED)),
    ("chunks beside a length", post(CHUNKED, L, body=b"0\r\n\r\n" + SMUGGLED)),
    ("chunked twice", post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED)),
    ("chunked, identity", post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED)),
    ("identity", post(b"Transfer-Encoding: identity", b"Content-Length: 0", body=SMUGGLED)),
    ("xchunked", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED)),
    ("chunked with a vertical tab", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED)),
    ("a blank before the colon", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    ("a folded Transfer-Encoding", post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    ("chunks in HTTP/1.0", post(CHUNKED, body=b"0\r\n\r\n" + SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
    ("a chunk's size with a sign", post(CHUNKED, body=b"+0\r\n\r\n" + SMUGGLED)),
    ("a chunk's size with 0x", post(CHUNKED, body=b"0x0\r\n\r\n" + SMUGGLED)),
    ("a chunk's size with an underscore", post(CHUNKED, body=b"0_0\r\n\r\n" + SMUGGLED)),
    ("a chunk's size empty", post(CHUNKED, body=b"\r\n\r\n" + SMUGGLED)),
    ("a chunk's size beyond 64 bit", post(CHUNKED, body=b"1" + b"0" * 16 + b"\r\n\r\n" + SMUGGLED)),
    ("a chunk's line that ends in LF", post(CHUNKED, body=b"0\n\n" + SMUGGLED)),
    ("a bare LF in an extension", post(CHUNKED, body=b"5;a\n\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    ("a chunk longer than its size", post(CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n" + SMUGGLED)),
    ("a chunk without its end", post(CHUNKED, body=b"1\r\na0\r\n\r\n" + SMUGGLED)),
    ("a trailer with a LF", post(CHUNKED, body=b"0\r\nA: b\n\r\n" + SMUGGLED)),
    ("bare LFs", b"GET / HTTP/1.1\nHost: a\n\n" + SMUGGLED),
    ("a bare LF in the header", b"GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n" + SMUGGLED),
    ("a bare CR in the header", b"GET / HTTP/1.1\r\nHost: a\rX-A: b\r\n\r\n" + SMUGGLED),
    ("a folded line", b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n" + SMUGGLED),
    ("a folded first line", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n" + SMUGGLED),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX-A: \x00\r\n\r\n" + SMUGGLED),
    ("NUL in a target", b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED),
    ("a header without a colon", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n" + SMUGGLED),
    ("a header without a name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n" + SMUGGLED),
    ("no version", b"GET /\r\n\r\n" + SMUGGLED),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n" + SMUGGLED),
    ("TLS where none is spoken", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + SMUGGLED),
]  # fmt: skip
STATUSES = {"HTTP/2": 505, "HTTP/1.2": 505}


@pytest.mark.parametrize(("name", "data"), REFUSED, ids=[name for name, _ in REFUSED])
def test_15_ambiguous_framing_is_refused_and_closes_the_connection(cloud: Cloud, name: str, data: bytes) -> None:
    (answer,) = cloud.ask_api(ALPHA, data)
    assert answer.status == STATUSES.get(name, 400), answer
    assert answer.closes


@pytest.mark.parametrize(("name", "data"), REFUSED, ids=[name for name, _ in REFUSED])
def test_15_namespace_proxy_passes_no_smuggled_request(cloud: Cloud, name: str, data: bytes) -> None:
    """HAProxy normalizes some of the requests and refuses the others. None returns beta's data."""
    for asked in (cloud.ask_proxy, cloud.ask_agent):
        for answer in asked(ALPHA, data):
            assert answer.status in (200, 400, 403, 404, 405, 408, 409, 411, 413, 501, 505), answer
            assert answer.status != 200 or BETA.canary.encode() not in answer.body


def test_smuggled_request_fails_the_transcript_check(cloud: Cloud) -> None:
    """Shows that the tests above can fail."""
    line = cloud.connect_api(ALPHA)
    line.send(SMUGGLED)
    line.finish()
    with pytest.raises(AssertionError, match="alpha received"):
        cloud.check_transcripts()


PADDINGS = [1, 2, 100, 1000, 4000, 8000, 8192, 15000, 16384, 31000, 32768, 60000, 64000, 65535]


@pytest.mark.parametrize("padding", PADDINGS)
def test_13_padded_headers_get_own_data_or_are_refused(cloud: Cloud, padding: int) -> None:
    line = b"X-Padding: " + b"p" * padding + b"\r\n"
    head = b"GET " + HOSTNAME.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    for asked, claim in ((cloud.ask_api, CLAIM), (cloud.ask_proxy, b"")):
        for data in (head + line + claim + b"\r\n", head + claim + line + b"\r\n"):
            (answer,) = asked(ALPHA, data)
            assert answer.status in (200, 400, 431), answer
            assert answer.status != 200 or answer.body.startswith(ALPHA.canary.encode())
    assert padding > 8192 or answer.status == 200


@pytest.mark.parametrize("padding", [0, 1000, 10000])
def test_13_request_in_pieces_of_one_byte_is_served(cloud: Cloud, padding: int) -> None:
    data = request("GET", HOSTNAME, {"X-Padding": "p" * padding, **ALPHA.claim})
    line = cloud.connect_api(ALPHA)
    line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(data)):
        line.send(data[place : place + 1])
    assert line.finish().endswith(ALPHA.canary.encode() + b"-host.novalocal")


def test_13_header_of_any_length_is_parsed_or_refused() -> None:
    """Up to 64 KiB the identity headers are parsed correctly, or the request is 431."""
    for padding in range(1, 65_600, 7):
        head = b"GET / HTTP/1.1\r\nX-Padding: " + b"p" * padding + b"\r\n" + CLAIM + b"\r\n"
        conversation = RequestParser(LIMITS)
        for start in range(0, len(head), 16_384):
            conversation.receive(head[start : start + 16_384])
        assert _instance_id(conversation) in (ALPHA.uuid.encode(), 431)


def _instance_id(conversation: RequestParser) -> bytes | int | None:
    try:
        incoming = conversation.next()
    except HttpError as refusal:
        return refusal.status
    return incoming.request.header(b"x-instance-id") if incoming else None


def test_17_body_beyond_the_limit_is_refused_before_it_is_read(cloud: Cloud) -> None:
    for asked in (cloud.connect_api, cloud.connect_agent):
        for length in (256 * 1024 + 1, 10**12):
            line = asked(ALPHA)
            line.send(post(b"Content-Length: %d" % length, body=b""))
            assert line.finish().startswith(b"HTTP/1.1 413 ")
            assert line.transcript.answers()[0].closes


def test_17_chunk_beyond_the_limit_is_refused(cloud: Cloud) -> None:
    line = cloud.connect_api(ALPHA)
    line.send(post(CHUNKED, body=b"fffffff\r\n"))
    assert line.finish().startswith(b"HTTP/1.1 413 ")


def test_expect_header_is_met_or_refused(cloud: Cloud) -> None:
    line = cloud.connect_api(ALPHA)
    line.send(post(b"Expect: 100-continue", b"Content-Length: 5", body=b""))
    assert line.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.send(b"hello")
    assert b"HTTP/1.1 200 OK" in line.finish()
    line = cloud.connect_api(ALPHA)
    line.send(post(b"Expect: 100-continue", b"Content-Length: 99999999", body=b""))
    assert line.finish().startswith(b"HTTP/1.1 413 ")
    line = cloud.connect_api(ALPHA)
    line.send(post(b"Expect: tea", b"Content-Length: 5", body=b""))
    assert line.finish().startswith(b"HTTP/1.1 417 ")


UNFINISHED = [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX-A: b\r\n", post(L, body=b"x")]


@pytest.mark.parametrize("unfinished", UNFINISHED)
def test_18_unfinished_request_is_408(cloud: Cloud, unfinished: bytes) -> None:
    slow = [cloud.connect_api(ALPHA) for _ in range(50)]
    for line in slow:
        line.send(unfinished)
    for line in slow:
        assert line.finish().startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("unfinished", UNFINISHED)
def test_18_unfinished_requests_do_not_delay_other_clients(cloud: Cloud, unfinished: bytes) -> None:
    with cloud.api_with_long_timeouts() as port:
        slow = [socket.create_connection(("127.0.0.1", port), HANG_SECONDS) for _ in range(50)]
        for line in slow:
            line.sendall(unfinished)
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as other:
                other.sendall(request("GET", HOSTNAME, BETA.claim))
                assert b"".join(iter(lambda: other.recv(65536), b"")).startswith(b"HTTP/1.1 200 ")
        for line in slow:
            line.setblocking(False)
            with pytest.raises(BlockingIOError):  # the server still waits for its request
                line.recv(1)
            line.close()


def test_18_trickling_bytes_do_not_extend_the_timeout(cloud: Cloud) -> None:
    line = cloud.connect_api(ALPHA)
    line.socket.settimeout(0.2)
    line.send(b"GET / HTTP/1.1\r\nX-A: ")
    while True:  # the timeout of the test ends the loop if the connection stays open
        try:
            data = line.read()
        except TimeoutError:
            line.send(b"a")
            continue
        assert data.startswith(b"HTTP/1.1 408 ")
        break
    line.finish()


def test_18_unfinished_request_at_the_namespace_proxy_is_408(cloud: Cloud) -> None:
    line = cloud.connect_proxy(ALPHA)
    line.send(b"GET / HTTP/1.1\r\n")
    assert cloud.ask_proxy(BETA, request("GET", HOSTNAME))[0].status == 200
    assert line.finish().startswith(b"HTTP/1.1 408 ")
