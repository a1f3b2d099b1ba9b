"""The namespace proxies' log: datagrams on a unix socket, each a JSON object, written to our own log."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import structlog

MAX_LINE_CHARS = 2048

_SYSLOG_PREFIX = re.compile(r"^<\d{1,3}>")
_KNOWN = (
    "request_id",
    "network_id",
    "router_id",
    "source",
    "method",
    "path",
    "status",
    "bytes",
    "milliseconds",
    "termination",
)

_log = structlog.get_logger(__name__)


class HaproxyLog(asyncio.DatagramProtocol):
    """Reads one datagram after the other; a flood is dropped by the kernel, which bounds the socket's queue."""

    def datagram_received(self, data: bytes, _address: object) -> None:
        event, facts = read_line(data)
        if facts.get("status", 0) >= 500 or event != REQUEST:
            _log.warning(event, **facts)
        else:
            _log.info(event, **facts)


REQUEST = "namespace proxy: request"
NOTICE = "namespace proxy: notice"


def read_line(data: bytes) -> tuple[str, Mapping[str, Any]]:
    """One datagram → an event and its facts.

    `{"request_id": "req-…", "status": 200, …}` → ("namespace proxy: request", those of its keys that are known);
    anything else → ("namespace proxy: notice", {"text": …}).
    """
    text = _SYSLOG_PREFIX.sub("", data[: 2 * MAX_LINE_CHARS].decode("utf-8", "replace")).strip()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return NOTICE, {"text": text[:MAX_LINE_CHARS]}
    facts = {name: found[name] for name in _KNOWN if isinstance(found.get(name), (str, int, float))}
    if not isinstance(facts.get("status", 0), int):
        del facts["status"]
    return REQUEST, facts
