from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator, Mapping

import pytest
import structlog

from openimds.config import LogConfig
from openimds.runtime import log_config, request_log
from openimds.runtime.request_log import BufferedRequestLog

FACTS = {"instance_id": None, "method": "GET", "path": '/a b\x1b\n"é', "status": 200}


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def written(form: str, facts: Mapping[str, object], times: int = 1) -> list[str]:
    stream = io.StringIO()

    async def main() -> None:
        log = BufferedRequestLog(LogConfig(debug=False, format=form), "metadata-api", stream)
        write = log.line("request answered", facts)
        for number in range(times):
            write(f"req-{number}", 0.128)
        log.flush()

    asyncio.run(main())
    return stream.getvalue().splitlines()


def test_json_line_has_the_format_of_other_lines() -> None:
    (line,) = written("json", FACTS)
    found = json.loads(line)
    stamp = found.pop("timestamp")
    assert stamp.endswith("Z")
    assert len(stamp) == len("2026-11-22T00:28:22.071293Z")
    assert found == {
        "request_id": "req-0", **FACTS, "ms": 0.13, "event": "request answered", "level": "info",
        "program": "metadata-api",
    }  # fmt: skip


def test_console_line_has_the_format_of_other_lines() -> None:
    (line,) = written("console", FACTS)
    assert line.split("Z ", 1)[1] == (
        "[info     ] request answered request_id=req-0 instance_id=None method=GET "
        "path='/a b\\x1b\\n\"\\xe9' status=200 ms=0.13 program=metadata-api"
    )


@pytest.mark.parametrize("form", ["console", "json"])
def test_secrets_are_hidden(form: str) -> None:
    (line,) = written(form, {"path": "/x?password=hunter2", "secret": "hunter2"})
    assert "hunter2" not in line


def test_full_buffer_is_written_before_the_end(monkeypatch) -> None:
    monkeypatch.setattr(request_log, "FLUSH_SECONDS", 3600)
    assert len(written("json", FACTS, 1000)) == 1000


async def test_buffered_lines_precede_later_log_lines() -> None:
    stream = io.StringIO()
    log_config.configure(LogConfig(debug=False, format="json"), "metadata-api", stream)

    write = BufferedRequestLog(LogConfig(debug=False, format="json"), "metadata-api", stream).line("first", {})
    write("req-1", 1.0)
    structlog.get_logger("openimds.test").info("second")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second"]


async def test_warning_has_its_level_and_equal_facts_of_other_types_are_distinct() -> None:
    stream = io.StringIO()

    log = BufferedRequestLog(LogConfig(debug=False, format="json"), "metadata-agent", stream)
    log.line("a", {"status": 1}, "warning")("req-1", 1.0)
    log.line("a", {"status": True})("req-2", 1.0)
    log.flush()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["status"]) == ("warning", 1)
    assert (second["level"], second["status"]) == ("info", True)
