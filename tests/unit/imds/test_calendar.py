"""What day documents say it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from openimds.imds.document_cache import Calendar


def test_a_day_lasts_until_midnight_in_utc_and_a_clock_may_be_set_back():
    now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    calendar = Calendar(lambda: now)
    seen = []
    for step in (timedelta(0), timedelta(seconds=1), timedelta(days=40), -timedelta(days=41)):
        now += step
        seen.append(calendar.today().name)
    assert seen == ["2026-11-22", "2026-11-23", "2027-01-02", "2026-11-22"]
    assert calendar.today().ends_at == datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def test_a_clock_of_another_zone_tells_the_same_day():
    now = datetime(2026, 11, 23, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert Calendar(lambda: now).today().name == "2026-11-22"
