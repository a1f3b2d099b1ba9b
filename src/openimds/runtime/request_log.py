"""A buffered log of requests in the format of `log_config`, cheap enough for one line per metadata request.

The text of a line is formatted once for equal requests, with secrets hidden, and each formatted field is cached. Only
the request ID and the times are filled in per request. Buffered lines are written after FLUSH_SECONDS, after
FLUSH_LINES lines, before any other log line of the program, and at its end.
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
    """The request log of one event loop. All methods run on its thread; `flush` may be called from any thread."""

    def __init__(self, log: LogConfig, program: str, stream: TextIO | None = None) -> None:
        self._is_json = log.format == "json"
        self._program = program
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._flush_lock = threading.Lock()
        self._timestamp = ""
        """The timestamp of all lines within one millisecond, from `_valid_from` to `_valid_until`."""
        self._valid_from = self._valid_until = 0.0
        self._second, self._second_text = -1, ""
        log_config.before_every_line(self.flush)

    def line(self, event: str, facts: Mapping[str, object], level: str = "info") -> Callable[[str, float], None]:
        """Returns a function that writes one line, given (request ID, milliseconds). `level` is `info` or `warning`."""
        is_json = self._is_json
        try:
            fragments = [_cached_fragment(name, value, is_json) for name, value in facts.items()]
        except TypeError:  # an unhashable value, such as a list
            fragments = [_fragment(name, value, is_json) for name, value in facts.items()]
        before, middle, after = (
            self._json(event, level, fragments) if is_json else self._console(event, level, fragments)
        )
        ending = '"}\n' if is_json else "\n"

        def write(request_id: str, milliseconds: float) -> None:
            if not self._valid_from <= time.time() < self._valid_until:
                self._update_timestamp()
            timestamp = self._timestamp
            lines = self._lines
            if is_json:
                lines.append(f"{before}{request_id}{middle}{milliseconds:.2f}{after}{timestamp}{ending}")
            else:
                lines.append(f"{timestamp}{before}{request_id}{middle}{milliseconds:.2f}{after}{ending}")
            count = len(lines)
            if count == 1:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            elif count >= FLUSH_LINES:
                self.flush()

        return write

    def flush(self) -> None:
        with self._flush_lock:
            chunk = self._lines[:]
            del self._lines[: len(chunk)]  # in place, so that a line appended by another thread is not lost
            if chunk:
                self._stream.write("".join(chunk))
                self._stream.flush()

    def _update_timestamp(self) -> None:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        milliseconds = nanoseconds // 1_000_000
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._valid_from, self._valid_until = second + milliseconds / 1000, second + (milliseconds + 1) / 1000
        self._timestamp = f"{self._second_text}.{milliseconds:03d}000Z"  # six digits, as in other lines

    def _console(self, event: str, level: str, fragments: Sequence[str]) -> tuple[str, str, str]:
        return f" [{level:<9}] {event} request_id=", f"{''.join(fragments)} ms=", f" program={self._program}"

    def _json(self, event: str, level: str, fragments: Sequence[str]) -> tuple[str, str, str]:
        after = f', "event": "{event}", "level": "{level}", "program": "{self._program}", "timestamp": "'
        return '{"request_id": "', f'", {"".join(fragments)}"ms": ', after


def _fragment(name: str, value: object, is_json: bool) -> str:
    """The text of one field, with secrets hidden."""
    safe = log_config.hide_secrets(None, "info", {name: value})
    return f"{json.dumps(safe, default=str)[1:-1]}, " if is_json else f" {name}={_console_value(safe[name])}"


_cached_fragment = lru_cache(maxsize=8192, typed=True)(_fragment)
"""A cached `_fragment`, because the same few paths and instance IDs occur in many lines."""


def _console_value(value: object) -> str:
    """The value as structlog's ConsoleRenderer writes it: quoted and escaped if it is ambiguous or breaks the line."""
    text = str(value)
    if text.isascii() and text.isprintable() and not set(text) & set(" =\"'"):
        return text
    return ascii(text)
