from __future__ import annotations

import resource

import pytest

from openimds.linux.fd_budget import within_budget


@pytest.mark.parametrize(
    ("descriptor", "quickens", "hears"), [(74, True, True), (75, False, True), (86, False, True), (87, False, False)]
)
def test_what_hears_of_changes_is_the_last_to_be_given_up(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, *, quickens: bool, hears: bool
) -> None:
    """Or namespaces made late would not be heard of because the windows into the first ones are kept open."""
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (100, 100))
    assert within_budget(descriptor) is quickens
    assert within_budget(descriptor, for_events=True) is hears
