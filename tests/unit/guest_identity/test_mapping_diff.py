"""What differs between two tables, with values told apart by identity."""

from __future__ import annotations

import random

from openimds.guest_identity.mapping_diff import difference


def test_any_two_tables() -> None:
    """Values are equal and not the same: lists."""
    chance = random.Random(7)
    for _ in range(500):
        before = {f"k{number}": [0] for number in range(6) if chance.random() < 0.6}
        after = {key: value if chance.random() < 0.6 else [0] for key, value in before.items() if chance.random() < 0.7}
        after |= {f"k{number}": [0] for number in range(6) if chance.random() < 0.2}
        if chance.random() < 0.5:
            after = dict(reversed(after.items()))
        gone, new = difference(before, after)
        assert {id(value) for value in gone} == {id(value) for value in before.values()} - {
            id(value) for value in after.values()
        }
        assert {id(value) for value in new} == {id(value) for value in after.values()} - {
            id(value) for value in before.values()
        }
        assert (len(gone), len(new)) == (len({id(value) for value in gone}), len({id(value) for value in new}))


def test_the_same_table_and_the_empty_ones() -> None:
    table = {"a": [0]}
    assert difference(table, table) == ([], [])
    assert difference({}, table) == ([], [[0]])
    assert difference(table, {}) == ([[0]], [])
