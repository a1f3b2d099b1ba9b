"""Random bytes from the kernel's key: never the same twice, and without a pattern that a simple look would find."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from openimds.web.guest import stretching
from openimds.web.guest.rendered import DRAWN_TOGETHER, Seeds
from openimds.web.guest.stretching import stretched

BLOCK = 16
MANY = 1 << 20


def test_as_many_as_asked() -> None:
    assert [len(stretched(count)) for count in (0, 1, 15, 16, 17, 65536)] == [0, 1, 15, 16, 17, 65536]


def test_no_block_comes_twice() -> None:
    drawn = b"".join(stretched(MANY // 8) for _ in range(8))
    blocks = [drawn[place : place + BLOCK] for place in range(0, MANY, BLOCK)]
    assert len(set(blocks)) == len(blocks)


def test_every_byte_is_about_as_frequent() -> None:
    """256 values, 4,096 expected of each; 20 standard deviations are never met by chance."""
    counts = Counter(stretched(MANY))
    assert len(counts) == 256
    assert all(abs(count - MANY / 256) < 20 * 64 for count in counts.values())


def test_each_draw_has_a_key_of_its_own_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def kernel(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    monkeypatch.setattr(stretching, "os", type("Kernel", (), {"urandom": staticmethod(kernel)}))
    assert stretched(1000) != stretched(1000)
    assert asked == [32, 16, 32, 16]


def test_a_child_gives_nothing_that_its_parent_gives() -> None:
    seeds = Seeds(stretched)
    seeds.text(512)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"".join(seeds.text(512) + b"\n" for _ in range(DRAWN_TOGETHER // 2)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        of_child = stream.read().split()
    os.waitpid(child, 0)
    ours = {seeds.text(512) for _ in range(2 * DRAWN_TOGETHER)}
    assert len(of_child) == DRAWN_TOGETHER // 2
    assert ours.isdisjoint(of_child)
