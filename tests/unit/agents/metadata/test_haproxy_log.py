"""The namespace proxies' lines."""

from __future__ import annotations

import json

from structlog.testing import capture_logs

from openimds.agents.metadata.haproxy_log import NOTICE, REQUEST, HaproxyLog, read_line

LINE = {
    "request_id": "req-1",
    "network_id": "net",
    "source": "10.0.0.5",
    "status": 200,
    "bytes": 10,
    "milliseconds": 3,
    "termination": "--",
    "method": "GET",
    "path": "/openstack",
}


def test_a_request():
    assert read_line(json.dumps(LINE).encode()) == (REQUEST, LINE)
    assert read_line(b"<134>" + json.dumps(LINE).encode() + b"\n") == (REQUEST, LINE)


def test_only_what_is_known_and_plain_is_taken():
    event, facts = read_line(json.dumps({**LINE, "evil": 1, "path": {"a": 1}, "status": "x"}).encode())
    assert event == REQUEST
    assert "evil" not in facts
    assert "path" not in facts
    assert "status" not in facts


def test_anything_else_is_a_notice_and_bounded():
    assert read_line(b"<131>Server listener/metadata is DOWN.") == (
        NOTICE,
        {"text": "Server listener/metadata is DOWN."},
    )
    assert read_line(b"[1]")[0] == NOTICE
    assert len(read_line(b"\xff" * 100_000)[1]["text"]) <= 2048


def test_failures_are_warnings():
    with capture_logs() as logs:
        HaproxyLog().datagram_received(json.dumps(LINE).encode(), None)
        HaproxyLog().datagram_received(json.dumps({**LINE, "status": 503}).encode(), None)
    assert [line["log_level"] for line in logs] == ["info", "warning"]
