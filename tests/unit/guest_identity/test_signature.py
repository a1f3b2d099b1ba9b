"""Signatures in the format of Nova and Neutron."""

from __future__ import annotations

from openimds.guest_identity.signature import matching_secret, sign, verify

ID = "d8e02d56-2648-49a3-bf97-6be8f1204f38"


def test_signature_equals_that_of_openssl():
    """The value is from `printf d8e02d56-2648-49a3-bf97-6be8f1204f38 | openssl dgst -sha256 -hmac SECRET_KEY`."""
    assert sign("SECRET_KEY", ID) == "e8e771b401caa4a00cff2ce58f0f04851459e405a8c6945f3a5a26c18f36820a"
    assert sign("SECRET_KEY", ID) != sign("SECRETE_KEY", ID)


def test_the_secret_of_a_signature_is_found():
    assert matching_secret(["new", "old"], ID, sign("new", ID)) == 0
    assert matching_secret(["new", "old"], ID, sign("old", ID)) == 1
    assert matching_secret(["new", "old"], ID, sign("other", ID)) is None
    assert matching_secret([], ID, sign("new", ID)) is None


def test_wrong_and_malformed_signatures_are_rejected():
    good = sign("secret", ID)
    assert verify(["secret"], ID, good)
    for bad in ("", good[:-1], good + " ", good.upper(), "\xff" * 64, "日本", sign("secret", ID + "x")):
        assert not verify(["secret"], ID, bad)
