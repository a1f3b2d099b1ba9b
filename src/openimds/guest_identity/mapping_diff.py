"""The difference between two snapshots of a mapping, whose values are replaced and never modified."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from operator import is_not
from typing import TypeVar

_Value = TypeVar("_Value")


def difference(before: Mapping[str, _Value], after: Mapping[str, _Value]) -> tuple[list[_Value], list[_Value]]:
    """Returns the values that only `before` has, and those that only `after` has.

    Values are compared by identity, in one pass without Python bytecode.
    """
    if before is after:
        return [], []
    new_ids = list(compress(after, map(is_not, map(before.get, after), after.values())))
    gone = [before[one] for one in new_ids if one in before]
    if len(before) + len(new_ids) - len(gone) > len(after):
        gone += [before[one] for one in before.keys() - after.keys()]
    return gone, [after[one] for one in new_ids]
