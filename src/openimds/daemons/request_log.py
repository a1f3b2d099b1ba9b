"""Lines about requests, at a price that a busy metadata API can pay: the same forms as every other line (logs.py).

What is the same for equal requests is formatted once and hidden where it looks like a secret, as in other lines; a
request's id and time are filled in. Lines are gathered and written together: after FLUSH_SECONDS, when there are many,
before any other line of the program, and at its end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from openimds.config import LogConfig
from openimds.daemons import logs

FLUSH_SECONDS = 0.1
FLUSH_LINES = 256


class BufferedRequestLog:
    """Of one event loop's thread; `flush` may be called from others."""

    def __init__(self, log: LogConfig, program: str, stream: TextIO | None = None) -> None:
        self._is_json = log.format == "json"
        self._program = program
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._flushing = threading.Lock()
        self._second = 0
        self._stamp = ""
        logs.before_every_line(self.flush)

    def line(self, event: str, facts: Mapping[str, object]) -> Callable[[str, float], None]:
        """A writer of lines of these facts: (request id, milliseconds)."""
        safe = logs.without_secrets(None, "info", dict(facts))
        before, middle, after = self._json(event, safe) if self._is_json else self._console(event, safe)
        ending = '"}\n' if self._is_json else "\n"
        is_json = self._is_json

        def write(request_id: str, milliseconds: float) -> None:
            now = time.time()
            since = now - self._second
            if not 0 <= since < 1:
                since = self._tick(now)
            stamp = f"{self._stamp}{int(since * 1_000_000):06d}Z"
            lines = self._lines
            if is_json:
                lines.append(f"{before}{request_id}{middle}{milliseconds:.2f}{after}{stamp}{ending}")
            else:
                lines.append(f"{stamp}{before}{request_id}{middle}{milliseconds:.2f}{after}{ending}")
            if len(lines) == 1:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            elif len(lines) >= FLUSH_LINES:
                self.flush()

        return write

    def flush(self) -> None:
        with self._flushing:
            chunk = self._lines[:]
            del self._lines[: len(chunk)]  # the list stays the same: a line that is added meanwhile is not lost
            if chunk:
                self._stream.write("".join(chunk))
                self._stream.flush()

    def _tick(self, now: float) -> float:
        """A new second began; how long ago."""
        self._second = int(now)
        self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(self._second))
        return now - self._second

    def _console(self, event: str, facts: Mapping[str, object]) -> tuple[str, str, str]:
        middle = "".join(f" {name}={_shown(value)}" for name, value in facts.items())
        return f" [info     ] {event} request_id=", f"{middle} ms=", f" program={self._program}"

    def _json(self, event: str, facts: Mapping[str, object]) -> tuple[str, str, str]:
        inner = json.dumps(dict(facts), default=str)[1:-1]
        after = (
            f', "event": {json.dumps(event)}, "level": "info", "program": {json.dumps(self._program)}, "timestamp": "'
        )
        return '{"request_id": "', f'", {inner}, "ms": ' if inner else '", "ms": ', after


def _shown(value: object) -> str:
    """As the other lines' renderer has it: what could be misread, or break the line, in quotes and escaped."""
    text = str(value)
    if text.isascii() and text.isprintable() and not set(text) & set(" =\"'"):
        return text
    return ascii(text)
