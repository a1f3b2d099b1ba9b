"""The rejection of requests in strict mode."""

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
def test_allowed_hosts_are_accepted(host: str) -> None:
    assert rejection_reason([(b"Host", host.encode())], ALLOWED) is None


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example", "169.254.169.254.rebound.example", "169.254.169.254:", "169.254.169.254:80:80", "",
        "fe80::a9fe:a9fe", "[fe80::a9fe:a9fe", "2852039166", "169.254.169.254, rebound.example",
    ],
)  # fmt: skip
def test_other_hosts_are_rejected(host: str) -> None:
    assert rejection_reason([(b"Host", host.encode())], ALLOWED) is not None


def test_a_missing_and_a_repeated_host_are_rejected() -> None:
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
def test_forwarded_requests_and_identity_headers_are_rejected(name: bytes) -> None:
    assert rejection_reason([(b"Host", b"169.254.169.254"), (name, b"1")], ALLOWED) is not None
    assert rejection_reason([(b"Host", b"169.254.169.254"), (b"Accept", b"*/*")], ALLOWED) is None
