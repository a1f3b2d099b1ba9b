"""The difference of two mappings, whose values are compared by identity."""

from __future__ import annotations

import random

from openimds.guest_identity.mapping_diff import difference


def test_difference_has_the_removed_and_added_values() -> None:
    """All values are equal lists with different identities."""
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


def test_difference_of_equal_and_empty_mappings() -> None:
    mapping = {"a": [0]}
    assert difference(mapping, mapping) == ([], [])
    assert difference({}, mapping) == ([], [[0]])
    assert difference(mapping, {}) == ([[0]], [])
