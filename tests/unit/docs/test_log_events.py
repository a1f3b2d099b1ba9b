from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scripts.docgen.log_events import LogCall, log_calls, log_events_page

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def calls() -> list[LogCall]:
    return log_calls(ROOT / "src" / "openimds")


def test_an_event_is_written_at_one_place(calls: list[LogCall]) -> None:
    repeated = {event for event, count in Counter(call.event for call in calls).items() if count > 1}
    assert repeated == set()


def test_the_page_of_log_events_is_current(calls: list[LogCall]) -> None:
    assert (ROOT / "docs" / "log-events.md").read_text() == log_events_page(calls), "run `make docs`"


def test_a_call_is_listed_with_its_level_keys_and_module(tmp_path: Path) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux" / "netns.py").write_text(
        'NAMES = "namespace name invalid"\n'
        "log.info('namespace created' if new else NAMES, namespace=name, **facts)\n"
        "log.exception(NAMES)\n"
    )
    assert log_calls(tmp_path) == [
        LogCall("namespace created", "info", ("namespace", "…"), "linux/netns.py"),
        LogCall("namespace name invalid", "info", ("namespace", "…"), "linux/netns.py"),
        LogCall("namespace name invalid", "exception", (), "linux/netns.py"),
    ]
    assert "| namespace created | info | `namespace`, … | `linux/netns.py` |" in log_events_page(log_calls(tmp_path))


def test_an_event_that_is_no_constant_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("log.info(f'namespace {name} created')\n")
    with pytest.raises(ValueError, match=r"a\.py:1"):
        log_calls(tmp_path)
