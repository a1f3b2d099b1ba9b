"""How a program logs: one event a line to stderr, for people or as JSON, and never a secret.

`2026-11-21T10:00:00.123Z info     a port is served by DHCP  [dhcp-agent] network_id=2ca23c47-… port_id=01e7ee7b-…`
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import structlog

from openimds.config import LogConfig

HIDDEN = "***"

_SECRET_KEY = re.compile(
    r"pass(word|phrase|wd)?$|secret|token(?!_(expir|id|key_?file))|authorization|signature|private_?key|user_?data|cookie"
    r"|credential|random_seed",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""(?ix)
    (?P<url> ://[^/\s:@]* : ) [^/\s@]+ (?=@)            # a password in a URL
    |
    (?P<field>
        (?: x-(?:auth|subject)-token | x-instance-id-signature | password | secret )
        ["']? \s* [:=] \s* ["']?
    )
    [^\s"',;&]+
    """
)


def configure(log: LogConfig, program: str, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging, which libraries use, to write the same lines."""
    target = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _program_named(program),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        without_secrets,
        on_one_line,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _InOrder(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(log, target)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("openimds").setLevel(logging.DEBUG if log.debug else logging.INFO)
    logging.captureWarnings(capture=True)


def before_every_line(first: Callable[[], None]) -> None:
    """Call `first` before a line is written: it may have lines of its own to write, which are older."""
    _first.append(first)


_first: list[Callable[[], None]] = []


class _InOrder(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        for first in _first:
            first()
        super().emit(record)


def without_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """Hide values under secret-looking keys, at any depth, and what looks like a secret inside texts."""
    return {key: _cleaned(key, value) for key, value in event.items()}


def on_one_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A line stays a line: text that came from outside cannot forge another one."""
    event["event"] = str(event.get("event", "")).strip().replace("\n", "\\n").replace("\r", "\\r")
    return event


def _cleaned(key: object, value: Any) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key) and value not in (None, "", True, False):
        return HIDDEN
    if isinstance(value, Mapping):
        return {inner: _cleaned(inner, item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(None, item) for item in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: f"{found['url'] or found['field']}{HIDDEN}", value)
    return value


def _program_named(program: str) -> structlog.typing.Processor:
    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("program", program)
        return event

    return add


def _renderer(log: LogConfig, target: TextIO) -> structlog.typing.Processor:
    if log.format == "json":
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(
        colors=target.isatty(), pad_event_to=0, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
