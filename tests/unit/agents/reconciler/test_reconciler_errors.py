from __future__ import annotations

import pytest

from openimds.agents.reconciler.reconciler import CombinedError, ErrorCollector


def fails(message: str) -> tuple[str, ...]:
    raise OSError(message)


def test_failing_step_does_not_stop_the_others() -> None:
    steps = ErrorCollector()
    steps.run(lambda: ("one",))
    steps.run(lambda: fails("two"))
    steps.run(lambda: ("three",))
    assert steps.changes == ["one", "three"]
    with pytest.raises(OSError, match="two"):
        steps.raise_errors()


def test_combined_error_contains_each_message() -> None:
    steps = ErrorCollector()
    steps.run(lambda: fails("one"))
    steps.run(lambda: fails("two"))
    with pytest.raises(CombinedError, match="one; two"):
        steps.raise_errors()


def test_no_error_is_raised_if_no_step_failed() -> None:
    ErrorCollector().raise_errors()
