from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from openimds.config import LogConfig
from openimds.runtime import log_config


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def configured(stream: io.StringIO, form: str = "json", *, debug: bool = False) -> structlog.stdlib.BoundLogger:
    log_config.configure(LogConfig(debug=debug, format=form), "dhcp-agent", stream)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("openimds.test")
    return logger


def test_event_is_written_as_a_json_line(stream: io.StringIO) -> None:
    configured(stream).info("port served", port_id="p1")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["port_id"], line["program"], line["level"]) == (
        "port served", "p1", "dhcp-agent", "info",
    )  # fmt: skip


@pytest.mark.parametrize(
    "facts",
    [
        {"password": "hunter2"},
        {"admin_password": "hunter2"},
        {"metadata_proxy_shared_secret": "hunter2"},
        {"X-Auth-Token": "hunter2"},
        {"headers": {"Authorization": "hunter2", "x-instance-id-signature": "hunter2"}},
        {"server": {"user_data": "hunter2"}},
        {"url": "postgresql://openimds:hunter2@db/x"},
        {"error": "login failed: password='hunter2'"},
        {"request": ["curl -H 'X-Auth-Token: hunter2' http://x"]},
    ],
)
def test_secrets_are_hidden(stream: io.StringIO, facts: dict[str, object]) -> None:
    configured(stream).info("an event", **facts)
    assert "hunter2" not in stream.getvalue()
    assert log_config.HIDDEN in stream.getvalue()


def test_values_that_only_resemble_secrets_are_kept(stream: io.StringIO) -> None:
    kept = {"token_expiration_seconds": 3600, "secret_set": True, "password": None, "api": "http://127.0.0.1:8775/x"}
    configured(stream).info("an event", **kept)
    assert kept.items() <= json.loads(stream.getvalue()).items()


def test_stack_trace_shows_no_local_values(stream: io.StringIO) -> None:
    log = configured(stream)
    word = "hunter2"
    try:
        raise ValueError(len(word))
    except ValueError:
        log.exception("operation failed")
    assert "ValueError: 7" in stream.getvalue()
    assert "hunter2'" not in stream.getvalue().replace('word = \\"hunter2\\"', "")


@pytest.mark.parametrize("form", ["console", "json"])
def test_line_breaks_in_an_event_cannot_forge_a_line(stream: io.StringIO, form: str) -> None:
    log = configured(stream, form)
    log.info("host name\n2026-01-01T00:00:00Z [error] forged", name="a\nb")
    assert len(stream.getvalue().splitlines()) == 1


def test_library_logs_use_the_same_format(stream: io.StringIO) -> None:
    configured(stream, "console")
    logging.getLogger("urllib3").warning("retrying %s", "x")
    logging.getLogger("urllib3").info("not shown")
    assert "retrying x" in stream.getvalue()
    assert "not shown" not in stream.getvalue()


def test_debug_events_are_written_only_with_debug(stream: io.StringIO) -> None:
    configured(stream).debug("hidden")
    assert stream.getvalue() == ""
    configured(stream, debug=True).debug("shown")
    assert "shown" in stream.getvalue()
