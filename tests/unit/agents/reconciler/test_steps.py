from __future__ import annotations

import pytest

from openimds.agents.reconciler.reconciler import CombinedError, ErrorCollector


def fails(words: str) -> tuple[str, ...]:
    raise OSError(words)


def test_what_fails_keeps_nothing_from_being_done() -> None:
    steps = ErrorCollector()
    steps.do(lambda: ("one",))
    steps.do(lambda: fails("two"))
    steps.do(lambda: ("three",))
    assert steps.changes == ["one", "three"]
    with pytest.raises(OSError, match="two"):
        steps.end()


def test_all_that_failed_is_said() -> None:
    steps = ErrorCollector()
    steps.do(lambda: fails("one"))
    steps.do(lambda: fails("two"))
    with pytest.raises(CombinedError, match="one; two"):
        steps.end()


def test_nothing_failed() -> None:
    ErrorCollector().end()
