"""The parser that turns bytes into requests or rejects them with a status."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openimds.http.messages import Request
from openimds.http.server.limits import HttpError, Limits
from openimds.http.server.request_parser import ParserState, RequestParser

SMALL = Limits(request_line_bytes=100, header_bytes=400, header_count=5, body_bytes=20, chunk_overhead_bytes=64)


def requests_of(data: bytes, limits: Limits = SMALL, piece: int = 0) -> list[Request]:
    """The parsed requests. The parser receives the data as a whole or in pieces of `piece` bytes."""
    parser = RequestParser(limits, peer="10.0.0.5", listener="tag")
    found = []
    size = piece or len(data) or 1
    for start in range(0, len(data), size):
        parser.receive(data[start : start + size])
        while incoming := parser.next():
            found.append(incoming.request)
    return found


def status_of_rejected(data: bytes, limits: Limits = SMALL) -> int:
    with pytest.raises(HttpError) as caught:
        requests_of(data, limits)
    assert str(caught.value) == caught.value.sentence
    return caught.value.status


GET = b"GET /openstack HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"


def test_get_request_is_parsed():
    (request,) = requests_of(GET)
    assert request.method == "GET"
    assert request.target == b"/openstack"
    assert request.headers == ((b"Host", b"169.254.169.254"),)
    assert request.body == b""
    assert request.peer == "10.0.0.5"
    assert request.listener == "tag"
    assert request.header(b"host") == b"169.254.169.254"
    assert request.header(b"accept") is None


@pytest.mark.parametrize(
    ("line", "method", "target"),
    [
        (b"get / HTTP/1.1", "get", b"/"),
        (b"FOO /x HTTP/1.1", "FOO", b"/x"),
        (b"GET /caf\xc3\xa9 HTTP/1.1", "GET", b"/caf\xc3\xa9"),
        (b"GET http://169.254.169.254/latest/?a HTTP/1.1", "GET", b"/latest/?a"),
        (b"GET http://169.254.169.254 HTTP/1.1", "GET", b"/"),
        (b"GET http://169.254.169.254?a HTTP/1.1", "GET", b"/?a"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", b"*"),
        (b"CONNECT a:1 HTTP/1.1", "CONNECT", b"a:1"),
        (b"GET  HTTP/1.1", "GET", b""),
        (b"GET // HTTP/1.0", "GET", b"//"),
        (b"GET /a b HTTP/1.1", "GET", b"/a b"),
        (b"GET /a HTTP/1.1 HTTP/1.1", "GET", b"/a HTTP/1.1"),
    ],
)
def test_request_line_is_parsed(line, method, target):
    (request,) = requests_of(line + b"\r\n\r\n")
    assert (request.method, request.target) == (method, target)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\n\r\n", 400),
        (b"GET latest HTTP/1.1\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\r\n\tb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n X: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nnocolon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nExpect: the-moon\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nContent-Length: 21\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 200, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 500, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 400 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 6 + b"\r\n", 431),
    ],
)
def test_malformed_request_is_rejected(data, status):
    assert status_of_rejected(data) in ((400, 413) if b"9999" in data else (status,))


def test_pipelined_requests_keep_their_order():
    targets = [request.target for request in requests_of(GET.replace(b"/openstack", b"/a") + GET + GET)]
    assert targets == [b"/a", b"/openstack", b"/openstack"]


def test_one_empty_line_before_a_request_is_accepted_and_two_are_rejected():
    assert len(requests_of(b"\r\n" + GET)) == 1
    assert status_of_rejected(b"\r\n\r\n" + GET) == 400


def test_request_after_a_body_with_a_length_is_parsed():
    data = b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello" + GET
    first, second = requests_of(data)
    assert first.body == b"hello"
    assert second.target == b"/openstack"


def test_request_inside_a_body_is_not_parsed():
    inner = b"GET /evil HTTP/1.1\r\n\r\n"
    limits = Limits()
    data = b"POST /p HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner + GET
    assert [request.target for request in requests_of(data, limits)] == [b"/p", b"/openstack"]


CHUNKED = b"POST /p HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"05\r\nhello\r\n000\r\nTrailer: x\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ],
)
def test_chunked_body_is_decoded(framing, body):
    for piece in (0, 1, 3):
        first, second = requests_of(CHUNKED + framing + GET, piece=piece)
        assert first.body == body
        assert second.target == b"/openstack"


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"5\nhello\r\n0\r\n\r\n", 400),
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"+5\r\nhello\r\n", 400),
        (b"0x5\r\nhello\r\n", 400),
        (b" 5\r\nhello\r\n", 400),
        (b"5\r\nhelloX\r\n", 400),
        (b"5\r\nhello!!0\r\n\r\n", 400),
        (b"\r\n", 400),
        (b"FFFFFFFFF\r\n", 400),
        (b"FFFFFFFF\r\n", 413),
        (b"15\r\n", 413),
        (b"14\r\n01234567890123456789\r\n1\r\n", 413),
        (b"0\r\nbad trailer\r\n\r\n", 400),
        (b"0\r\n folded: x\r\n\r\n", 400),
        (b"1;" + b"x" * 80, 400),
        (b"0\r\n" + b"A: b\r\n" * 20, 400),
    ],
)
def test_malformed_chunk_is_rejected(framing, status):
    assert status_of_rejected(CHUNKED + framing) == status


def test_state_follows_the_received_bytes():
    parser = RequestParser(SMALL)
    states = [parser.stage]
    for piece in (b"POST / HTTP/1.1\r\n", b"Content-Length: 2\r\n\r\n", b"ab"):
        parser.receive(piece)
        parser.next()
        states.append(parser.stage)
    assert states == [ParserState.IDLE, ParserState.HEAD, ParserState.BODY, ParserState.IDLE]


def test_continue_is_sent_once_and_only_before_the_body():
    parser = RequestParser(SMALL)
    parser.receive(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert parser.next() is None
    assert parser.take_continue()
    assert not parser.take_continue()
    parser.receive(b"abPOST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")
    assert parser.next() is not None
    assert parser.next() is not None
    assert not parser.take_continue()


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: Keep-Alive, Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"TRACE / HTTP/1.1\r\n\r\n", False),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", True),
    ],
)
def test_keep_alive_follows_version_and_connection_header(head, keep_alive):
    parser = RequestParser(SMALL)
    parser.receive(head)
    incoming = parser.next()
    assert incoming is not None
    assert incoming.keep_alive is keep_alive


def outcome(data: bytes, cuts: list[int]) -> list[object]:
    parser = RequestParser(SMALL)
    found: list[object] = []
    offsets = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    try:
        for start, end in itertools.pairwise(offsets):
            parser.receive(data[start:end])
            while incoming := parser.next():
                found.append(incoming)
    except HttpError as error:
        found.append(error.status)
    return found


WELL_FORMED = GET + b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET


@given(st.lists(st.integers(0, len(WELL_FORMED)), max_size=12))
def test_result_is_independent_of_the_boundaries_of_reads(cuts):
    assert outcome(WELL_FORMED, cuts) == outcome(WELL_FORMED, [])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_http_errors(data):
    outcome(GET + data + b"\r\n\r\n", [])
    outcome(CHUNKED + data, [])


def test_empty_lines_are_counted_across_reads():
    assert [request.target for request in requests_of(b"\r\n" + GET + b"\r\n" + GET)] == [b"/openstack"] * 2
    for piece in range(4):
        with pytest.raises(HttpError) as caught:
            requests_of(b"\r\n\r\n" + GET, piece=piece)
        assert caught.value.status == 400


def test_equal_bytes_are_parsed_with_the_peer_and_limits_of_each_parser():
    first, second = (RequestParser(SMALL, peer=f"10.0.0.{n}", peer_port=n, mac=f"fa:16:3e:00:00:0{n}") for n in (1, 2))
    parsed = []
    for parser in (first, second):
        parser.receive(GET)
        incoming = parser.next()
        assert incoming is not None
        parsed.append(
            (incoming.request.peer, incoming.request.peer_port, incoming.request.mac, incoming.request.target)
        )
    assert parsed == [(f"10.0.0.{n}", n, f"fa:16:3e:00:00:0{n}", b"/openstack") for n in (1, 2)]
    narrow = RequestParser(replace(SMALL, header_bytes=4), mac="fa:16:3e:00:00:03")
    for _ in range(2):
        narrow.receive(GET)
        with pytest.raises(HttpError):
            narrow.next()
