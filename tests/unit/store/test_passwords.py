from __future__ import annotations

import bcrypt
import pytest

from openimds.store.passwords import hash_password, verify_password


def test_only_the_right_password_is_verified() -> None:
    hashed = hash_password("right", 4)
    assert verify_password("right", hashed, 4)
    assert not verify_password("wrong", hashed, 4)
    assert not verify_password("right", None, 4)


def test_all_bytes_of_a_long_password_count() -> None:
    long = "x" * 100
    assert not verify_password(long + "a", hash_password(long + "b", 4), 4)
    assert verify_password("nul\x00inside", hash_password("nul\x00inside", 4), 4)
    assert not verify_password("nul\x00other", hash_password("nul\x00inside", 4), 4)


def test_check_of_an_unknown_user_takes_as_long_as_of_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both need one check against a hash with the same number of rounds."""
    hashed = hash_password("x", 8)
    verify_password("x", None, 8)
    checked: list[bytes] = []
    check = bcrypt.checkpw

    def noted(password: bytes, against: bytes) -> bool:
        checked.append(against)
        return check(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", noted)
    monkeypatch.setattr(bcrypt, "hashpw", None)  # the hash for unknown users is computed once, not for each login
    for stored in (hashed, None):
        assert not verify_password("y", stored, 8)
    assert [each[:7] for each in checked] == [b"$2b$08$"] * 2
