from __future__ import annotations

import time

from openimds.store.passwords import hash_password, verify_password


def test_the_right_one_and_no_other() -> None:
    hashed = hash_password("right", 4)
    assert verify_password("right", hashed, 4)
    assert not verify_password("wrong", hashed, 4)
    assert not verify_password("right", None, 4)


def test_every_byte_counts() -> None:
    long = "x" * 100
    assert not verify_password(long + "a", hash_password(long + "b", 4), 4)
    assert verify_password("nul\x00inside", hash_password("nul\x00inside", 4), 4)
    assert not verify_password("nul\x00other", hash_password("nul\x00inside", 4), 4)


def test_nobody_takes_as_long_as_somebody() -> None:
    hashed = hash_password("x", 8)
    verify_password("x", None, 8)
    somebody, nobody = (min(_seconds(known) for _ in range(5)) for known in (hashed, None))
    assert 0.5 < nobody / somebody < 2


def _seconds(hashed: str | None) -> float:
    begun = time.perf_counter()
    verify_password("y", hashed, 8)
    return time.perf_counter() - begun
