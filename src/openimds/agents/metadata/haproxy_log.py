"""Copies the log of the namespace proxies, JSON datagrams on a unix socket, into the agent's log."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from typing import Any

import structlog

from openimds.imds.request_log import RequestLog

MAX_LINE_CHARS = 2048
BATCH = 256
"""The number of datagrams per call, so that requests are not delayed."""

_SYSLOG_PREFIX = re.compile(r"^<\d{1,3}>")
_ID = re.compile(r"[0-9A-Za-z_.:-]{1,64}")
_KNOWN = ("network_id", "router_id", "source", "method", "path", "status", "bytes", "termination")
_PLAIN = (str, int, float)

_log = structlog.get_logger(__name__)


class HaproxyLog:
    """Reads the datagrams of a socket. The kernel bounds the queue and drops further datagrams."""

    def __init__(self, datagrams: socket.socket, log: RequestLog) -> None:
        """`datagrams` is non-blocking."""
        self._datagrams = datagrams
        self._log = log

    def read(self) -> None:
        """Called by the event loop when the socket is readable."""
        receive = self._datagrams.recv
        try:
            for _ in range(BATCH):
                self._write(receive(2 * MAX_LINE_CHARS))
        except (BlockingIOError, InterruptedError):
            return

    def _write(self, data: bytes) -> None:
        found = read_line(data)
        if isinstance(found, str):
            _log.warning("namespace proxy: notice", text=found)
            return
        request_id, milliseconds, facts = found
        level = "warning" if facts.get("status", 0) >= 500 else "info"
        self._log.line("namespace proxy: request", facts, level)(request_id, milliseconds)


def read_line(data: bytes) -> tuple[str, float, Mapping[str, Any]] | str:
    """Parses a datagram.

    `{"request_id": "req-…", "milliseconds": 3, "status": 200, …}` gives `("req-…", 3, facts)`, with the known keys as
    facts. Any other datagram is a notice of HAProxy and gives its text.
    """
    text = data[: 2 * MAX_LINE_CHARS].decode("utf-8", "replace")
    if text.startswith("<"):
        text = _SYSLOG_PREFIX.sub("", text)
    text = text.strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return text[:MAX_LINE_CHARS]
    facts = {name: found[name] for name in _KNOWN if isinstance(found.get(name), _PLAIN)}
    if not isinstance(facts.get("status", 0), int):
        del facts["status"]
    return _request_id(found.get("request_id")), _milliseconds(found.get("milliseconds")), facts


def _request_id(value: object) -> str:
    """Returns a well-formed request ID, else an empty string, because the ID is written to the log as it is."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def _milliseconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e12 else 0.0
