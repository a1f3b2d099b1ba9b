"""A small memory that forgets."""

from __future__ import annotations

from openimds.agents.metadata.lookup.port_queries import MAX_ENTRIES, TtlCache


def test_entries_end():
    now = [0.0]
    recent: TtlCache[str, int] = TtlCache(lambda: now[0])
    recent.put("a", 1, 2.0)
    assert recent.get("a") == 1
    now[0] = 2.0
    assert recent.get("a") is None
    assert recent.get("b") is None


def test_it_is_bounded():
    recent: TtlCache[int, int] = TtlCache(lambda: 0.0)
    for number in range(MAX_ENTRIES + 10):
        recent.put(number, number, 1.0)
    assert recent.get(9) is None
    assert recent.get(10) == 10
