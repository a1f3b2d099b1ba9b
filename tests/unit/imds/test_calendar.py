"""The current day in documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from openimds.imds.document_cache import Calendar


def test_day_ends_at_midnight_utc_and_follows_a_clock_that_is_set_back():
    now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    calendar = Calendar(lambda: now)
    names = []
    for step in (timedelta(0), timedelta(seconds=1), timedelta(days=40), -timedelta(days=41)):
        now += step
        names.append(calendar.today().name)
    assert names == ["2026-11-22", "2026-11-23", "2027-01-02", "2026-11-22"]
    assert calendar.today().ends_at == datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def test_day_is_in_utc_for_a_clock_of_another_time_zone():
    now = datetime(2026, 11, 23, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert Calendar(lambda: now).today().name == "2026-11-22"
