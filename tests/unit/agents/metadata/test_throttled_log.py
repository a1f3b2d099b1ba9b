"""The rate of repeated log events."""

from __future__ import annotations

from structlog.testing import capture_logs

from openimds.agents.metadata.throttled_log import SECRETS_DIFFER, ThrottledLog


def test_different_secrets_are_logged_once_a_minute_for_any_number_of_requests() -> None:
    now = [0.0]
    throttled_log = ThrottledLog(lambda: now[0])
    with capture_logs() as logs:
        for second in range(121):
            now[0] = float(second)
            throttled_log.secrets_differ("http://controller:8775")
            throttled_log.secrets_differ("http://controller:8775")
    assert [line["event"] for line in logs] == [SECRETS_DIFFER] * 3


def test_a_recovered_metadata_api_is_logged_once_and_its_next_failure_immediately() -> None:
    throttled_log = ThrottledLog(lambda: 0.0)
    with capture_logs() as logs:
        for _ in range(2):
            throttled_log.upstream_away("refused")
        for _ in range(2):
            throttled_log.upstream_answers()
        throttled_log.upstream_away("refused")
    assert [line["log_level"] for line in logs] == ["error", "info", "error"]
