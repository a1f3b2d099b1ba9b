"""The detection of privileged source ports."""

from __future__ import annotations

import pytest

from openimds.guest_identity.headers import PRIVILEGED, is_privileged, was_privileged


@pytest.mark.parametrize(("port", "expected"), [(0, False), (1, True), (1023, True), (1024, False), (65535, False)])
def test_ports_below_1024_are_privileged(port: int, expected: bool) -> None:
    assert is_privileged(port) is expected


@pytest.mark.parametrize("name", [PRIVILEGED, PRIVILEGED.lower(), PRIVILEGED.upper()])
def test_the_header_of_the_previous_hop_marks_a_privileged_port(name: str) -> None:
    assert was_privileged(((name.encode(), b"1"),))
    assert not was_privileged(((name.replace("-", "_").encode(), b"1"),))
    assert not was_privileged(())
