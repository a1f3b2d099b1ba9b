"""The freshness of a vendor data response."""

from __future__ import annotations

import pytest

from openimds.client.vendordata import MAX_FRESH_SECONDS, fresh_seconds


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        (None, None, 0),
        ("", None, 0),
        ("max-age=60", None, 60),
        ("Max-Age = 60", None, 60),
        ('private, max-age="60"', None, 60),
        ("s-maxage=60", None, 0),
        ("max-age=60, no-store", None, 0),
        ("no-cache, max-age=60", None, 0),
        ("max-age=60", "20", 40),
        ("max-age=60", "80", 0),
        ("max-age=60", "old", 60),
        ("max-age=-1", None, 0),
        ("max-age=x", None, 0),
        ("max-age=9999999999", None, MAX_FRESH_SECONDS),
        ("max-age", None, 0),
        ("must-revalidate, max-age=5", None, 5),
    ],
)
def test_fresh_seconds_follow_max_age_and_age(cache_control: str | None, age: str | None, seconds: float) -> None:
    assert fresh_seconds(cache_control, age) == seconds
