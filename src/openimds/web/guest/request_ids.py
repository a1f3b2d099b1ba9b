"""One id for a request on its whole way."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from openimds.identity.headers import REQUEST_ID, values

_FORM = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The id that the hop before gave, if there is one and it has the form of one; else a new one."""
    given = values(headers, REQUEST_ID)
    if len(given) == 1 and _FORM.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def new_request_id() -> str:
    """A random UUID behind `req-`."""
    if not _drawn:
        _draw()
    digits = _drawn.pop()
    return f"req-{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _draw() -> None:
    digits = os.urandom(16 * _DRAWN_TOGETHER).hex()
    _drawn.extend(digits[place : place + 32] for place in range(0, len(digits), 32))


_DRAWN_TOGETHER = 64
"""The kernel charges by the call: sixteen bytes at a time cost ten times as much."""
_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)  # two processes would give the same
