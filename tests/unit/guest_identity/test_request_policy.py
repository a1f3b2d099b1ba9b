from __future__ import annotations

import pytest

from openimds.guest_identity.request_policy import rejection_reason

ALLOWED = ("169.254.169.254", "[fe80::a9fe:a9fe]", "Metadata.example")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.169.254:80", " 169.254.169.254 ", "[fe80::a9fe:a9fe]", "[FE80::A9FE:A9FE]:80",
        "metadata.example", "METADATA.example:8775",
    ],
)  # fmt: skip
def test_its_own_hosts(host: str) -> None:
    assert rejection_reason([(b"Host", host.encode())], ALLOWED) is None


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example", "169.254.169.254.rebound.example", "169.254.169.254:", "169.254.169.254:80:80", "",
        "fe80::a9fe:a9fe", "[fe80::a9fe:a9fe", "2852039166", "169.254.169.254, rebound.example",
    ],
)  # fmt: skip
def test_other_hosts(host: str) -> None:
    assert rejection_reason([(b"Host", host.encode())], ALLOWED) is not None


def test_no_host_and_two() -> None:
    assert rejection_reason([], ALLOWED) is not None
    assert rejection_reason([(b"Host", b"169.254.169.254")] * 2, ALLOWED) is not None


@pytest.mark.parametrize(
    "name",
    [
        b"X-Forwarded-For", b"x-forwarded-host", b"X_Forwarded_For", b"Forwarded", b"X-Real-IP", b"X-Instance-ID",
        b"X-Tenant-ID", b"X-Instance-ID-Signature", b"X-Neutron-Network-ID", b"X-OVN-Network-ID",
        b"X-Metadata-Provider",
    ],
)  # fmt: skip
def test_what_was_forwarded_or_says_who_asks(name: bytes) -> None:
    assert rejection_reason([(b"Host", b"169.254.169.254"), (name, b"1")], ALLOWED) is not None
    assert rejection_reason([(b"Host", b"169.254.169.254"), (b"Accept", b"*/*")], ALLOWED) is None
