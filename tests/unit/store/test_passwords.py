from __future__ import annotations

import bcrypt
import pytest

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


def test_nobody_takes_as_long_as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work: one check, against a hash with the same number of rounds."""
    hashed = hash_password("x", 8)
    verify_password("x", None, 8)
    checked: list[bytes] = []
    check = bcrypt.checkpw

    def noted(password: bytes, against: bytes) -> bool:
        checked.append(against)
        return check(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", noted)
    monkeypatch.setattr(bcrypt, "hashpw", None)  # the hash of nobody is made once, and not when somebody asks
    for known in (hashed, None):
        assert not verify_password("y", known, 8)
    assert [each[:7] for each in checked] == [b"$2b$08$"] * 2
