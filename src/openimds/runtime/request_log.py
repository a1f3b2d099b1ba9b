"""Lines about requests, at a price that a busy metadata API can pay: the same forms as every other line (logs.py).

What is the same for equal requests is formatted once and hidden where it looks like a secret, as in other lines, and
each fact is remembered as it was formatted; a request's id and time are filled in. Lines are gathered and written together: after FLUSH_SECONDS, when there are many,
before any other line of the program, and at its end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TextIO

from openimds.config import LogConfig
from openimds.runtime import log_config

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
        self._from = self._until = 0.0
        self._stamp = ""
        """Of lines written from and until then: a millisecond's all have the same."""
        self._second, self._stamp_of_second = -1, ""
        log_config.before_every_line(self.flush)

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        """A writer of lines of these facts: (request id, milliseconds). `level`: `info` or `warning`."""
        is_json = self._is_json
        try:
            fragments = [_kept_fragment(name, value, is_json) for name, value in facts.items()]
        except TypeError:  # a list among them
            fragments = [_fragment(name, value, is_json) for name, value in facts.items()]
        before, middle, after = (
            self._json(event, level, fragments) if is_json else self._console(event, level, fragments)
        )
        ending = '"}\n' if is_json else "\n"

        def write(request_id: str, milliseconds: float) -> None:
            if not self._from <= time.time() < self._until:
                self._tick()
            stamp = self._stamp
            lines = self._lines
            if is_json:
                lines.append(f"{before}{request_id}{middle}{milliseconds:.2f}{after}{stamp}{ending}")
            else:
                lines.append(f"{stamp}{before}{request_id}{middle}{milliseconds:.2f}{after}{ending}")
            count = len(lines)
            if count == 1:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            elif count >= FLUSH_LINES:
                self.flush()

        return write

    def flush(self) -> None:
        with self._flushing:
            chunk = self._lines[:]
            del self._lines[: len(chunk)]  # the list stays the same: a line that is added meanwhile is not lost
            if chunk:
                self._stream.write("".join(chunk))
                self._stream.flush()

    def _tick(self) -> None:
        """A new millisecond began."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        milliseconds = nanoseconds // 1_000_000
        if second != self._second:
            self._second, self._stamp_of_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._from, self._until = second + milliseconds / 1000, second + (milliseconds + 1) / 1000
        self._stamp = f"{self._stamp_of_second}.{milliseconds:03d}000Z"  # six digits, as in other lines

    def _console(self, event: str, level: str, fragments: Sequence[str]) -> tuple[str, str, str]:
        return f" [{level:<9}] {event} request_id=", f"{''.join(fragments)} ms=", f" program={self._program}"

    def _json(self, event: str, level: str, fragments: Sequence[str]) -> tuple[str, str, str]:
        after = f', "event": "{event}", "level": "{level}", "program": "{self._program}", "timestamp": "'
        return '{"request_id": "', f'", {"".join(fragments)}"ms": ', after


def _fragment(name: str, value: object, is_json: bool) -> str:
    """A fact as it stands in a line, hidden where it looks like a secret."""
    safe = log_config.without_secrets(None, "info", {name: value})
    return f"{json.dumps(safe, default=str)[1:-1]}, " if is_json else f" {name}={_shown(safe[name])}"


_kept_fragment = lru_cache(maxsize=8192, typed=True)(_fragment)
"""The same few values come again and again in other company: this path, that guest."""


def _shown(value: object) -> str:
    """As the other lines' renderer has it: what could be misread, or break the line, in quotes and escaped."""
    text = str(value)
    if text.isascii() and text.isprintable() and not set(text) & set(" =\"'"):
        return text
    return ascii(text)
