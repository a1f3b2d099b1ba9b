"""What the operator is told, and how often."""

from __future__ import annotations

from structlog.testing import capture_logs

from openimds.agents.metadata.throttled_log import SECRETS_DIFFER, ThrottledLog


def test_a_wrong_secret_is_said_once_a_minute_however_many_ask() -> None:
    now = [0.0]
    complaints = ThrottledLog(lambda: now[0])
    with capture_logs() as logs:
        for second in range(121):
            now[0] = float(second)
            complaints.secrets_differ("http://controller:8775")
            complaints.secrets_differ("http://controller:8775")
    assert [line["event"] for line in logs] == [SECRETS_DIFFER] * 3


def test_a_metadata_api_that_is_back_is_said_once_and_its_next_absence_at_once() -> None:
    complaints = ThrottledLog(lambda: 0.0)
    with capture_logs() as logs:
        for _ in range(2):
            complaints.upstream_away("refused")
        for _ in range(2):
            complaints.upstream_answers()
        complaints.upstream_away("refused")
    assert [line["log_level"] for line in logs] == ["error", "info", "error"]
