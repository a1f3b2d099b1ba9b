"""The log lines of namespace proxies."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from openimds.agents.metadata.haproxy_log import HaproxyLog, read_line

FACTS = {
    "network_id": "net",
    "source": "10.0.0.5",
    "method": "GET",
    "path": "/openstack",
    "status": 200,
    "bytes": 10,
    "termination": "--",
}
LINE = {"request_id": "req-1", **FACTS, "milliseconds": 3}


@dataclass
class Lines:
    """A request log that records its lines."""

    entries: list[tuple[str, str, Mapping[str, object], str, float]] = field(default_factory=list)

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        return lambda request_id, ms: self.entries.append((level, event, facts, request_id, ms))


def test_a_line_of_a_request_is_parsed():
    assert read_line(json.dumps(LINE).encode()) == ("req-1", 3.0, FACTS)
    assert read_line(b"<134>" + json.dumps(LINE).encode() + b"\n") == ("req-1", 3.0, FACTS)


def test_only_expected_fields_of_the_right_type_are_read():
    found = read_line(
        json.dumps(
            {**LINE, "evil": 1, "path": {"a": 1}, "status": "x", "request_id": 'a"b', "milliseconds": "1"}
        ).encode()
    )
    assert found == ("", 0.0, {name: FACTS[name] for name in FACTS if name not in ("path", "status")})


def test_any_other_line_is_a_bounded_notice():
    assert read_line(b"<131>Server listener/metadata is DOWN.") == "Server listener/metadata is DOWN."
    assert read_line(b"[1]") == "[1]"
    assert len(read_line(b"\xff" * 100_000)) <= 2048
    assert isinstance(read_line(b"[" * 4000), str)


def test_all_pending_lines_are_read_at_once_and_failures_are_warnings():
    ours, proxy = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    lines = Lines()
    with ours, proxy, capture_logs() as logs:
        ours.setblocking(False)
        for line in (LINE, {**LINE, "status": 503}):
            proxy.send(json.dumps(line).encode())
        proxy.send(b"proxy started")
        HaproxyLog(ours, lines).read()
    assert [(level, event, request_id) for level, event, _facts, request_id, _ms in lines.entries] == [
        ("info", "namespace proxy: request", "req-1"),
        ("warning", "namespace proxy: request", "req-1"),
    ]
    assert [(line["log_level"], line["text"]) for line in logs] == [("warning", "proxy started")]
