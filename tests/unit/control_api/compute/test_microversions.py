from __future__ import annotations

import pytest

from openimds.control_api.compute.microversions import NEWEST, OLDEST, Microversion, parse_version
from openimds.control_api.error_handlers import NotAcceptable
from openimds.resources.errors import BadRequest


@pytest.mark.parametrize(
    ("current", "old", "version"),
    [
        (None, None, OLDEST),
        ("compute 2.90", None, Microversion(2, 90)),
        ("COMPUTE 2.90", None, Microversion(2, 90)),
        ("placement 1.2, compute 2.26", None, Microversion(2, 26)),
        ("placement 1.2", None, OLDEST),
        ("compute latest", None, NEWEST),
        (None, "2.26", Microversion(2, 26)),
        ("compute 2.90", "2.26", Microversion(2, 90)),
    ],
)
def test_version_is_parsed_from_the_headers(current: str | None, old: str | None, version: Microversion) -> None:
    assert parse_version(current, old) == version


@pytest.mark.parametrize("text", ["2.0", "2.97", "3.1", "1.1"])
def test_unsupported_version_is_not_acceptable(text: str) -> None:
    with pytest.raises(NotAcceptable, match=r"2\.1 and maximum is 2\.96"):
        parse_version(f"compute {text}", None)


@pytest.mark.parametrize("text", ["2", "2.01", "two", "2.1.1", "-2.1"])
def test_malformed_version_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest, match="invalid format"):
        parse_version(f"compute {text}", None)


def test_2_9_is_older_than_2_10() -> None:
    assert Microversion(2, 9) < Microversion(2, 10)
