"""SIGTERM ends a block as Ctrl-C does, so that what it made is removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_told_to_end() -> Iterator[None]:
    """Raises KeyboardInterrupt inside the block on SIGTERM."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
