from __future__ import annotations

import resource

import pytest

from openimds.linux.fd_budget import within_budget


@pytest.mark.parametrize(
    ("descriptor", "is_allowed", "is_allowed_for_events"),
    [(74, True, True), (75, False, True), (86, False, True), (87, False, False)],
)
def test_event_sockets_have_the_larger_budget(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, *, is_allowed: bool, is_allowed_for_events: bool
) -> None:
    """Otherwise the handles of earlier namespaces would prevent the event sockets of later ones."""
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (100, 100))
    assert within_budget(descriptor) is is_allowed
    assert within_budget(descriptor, for_events=True) is is_allowed_for_events
