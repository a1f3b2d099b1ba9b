"""Log configuration: one event per line to stderr, as console text or JSON, with secrets removed."""

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
    """Configures structlog and the standard library's `logging` to write lines of the same format.

    The lines go to `stream`, or to stderr if it is None.
    """
    target = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_program(program),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        hide_secrets,
        escape_line_breaks,
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
    handler = _OrderedHandler(target)
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


def before_every_line(callback: Callable[[], None]) -> None:
    """Registers a callback that runs before each line is written, so that older buffered lines come first."""
    _callbacks.append(callback)


_callbacks: list[Callable[[], None]] = []


class _OrderedHandler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        for callback in _callbacks:
            callback()
        super().emit(record)


def hide_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """Hides the values of keys with the name of a secret, at any depth, and secrets inside text."""
    return {key: _without_secrets(key, value) for key, value in event.items()}


def escape_line_breaks(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escapes line breaks in the event, so that text from a client cannot forge a log line."""
    event["event"] = str(event.get("event", "")).strip().replace("\n", "\\n").replace("\r", "\\r")
    return event


def _without_secrets(key: object, value: Any) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key) and value not in (None, "", True, False):
        return HIDDEN
    if isinstance(value, Mapping):
        return {inner: _without_secrets(inner, item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(None, item) for item in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: f"{found['url'] or found['field']}{HIDDEN}", value)
    return value


def _add_program(program: str) -> structlog.typing.Processor:
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
