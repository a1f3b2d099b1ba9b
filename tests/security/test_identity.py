"""Checklist rows 5, 11, 12 and 28-31: only the source address and the signature identify an instance."""

from __future__ import annotations

import itertools

import pytest
from structlog.testing import capture_logs
from tests.security.instances import ALPHA, BETA, NETWORK, SECRET, SHARED_ADDRESS, UNKNOWN_ADDRESS, request
from tests.security.responses import Answer
from tests.security.stage import Cloud

from openimds.guest_identity.signature import matching_secret, sign

HOSTNAME = "/latest/meta-data/hostname"

FORGED = {
    "X-Forwarded-For": BETA.address,
    "Forwarded": f"for={BETA.address}",
    "X-Real-IP": BETA.address,
    "X-Instance-ID": BETA.uuid,
    "X-Tenant-ID": BETA.project_id,
    "X-Project-ID": BETA.project_id,
    "X-Instance-ID-Signature": sign(SECRET, BETA.uuid),
    "X-Neutron-Network-ID": "00000000-0000-4000-8000-000000000000",
    "X-Neutron-Router-ID": NETWORK,
    "X-OVN-Network-ID": NETWORK,
    "X-Metadata-Provider": BETA.uuid,
    "X-Metadata-Provider-Signature": sign(SECRET, BETA.uuid),
    "X-Forwarded-Host": "beta",
}
"""Headers by which a guest claims to be beta, with beta's valid signature."""


def spellings(name: str) -> list[bytes]:
    """Variants of the header line, without its line end, that a lenient server may accept."""
    value = FORGED[name].encode()
    plain = name.encode()
    return [
        plain + b": " + value, plain.lower() + b": " + value, plain.upper() + b":" + value,
        plain.replace(b"-", b"_") + b": " + value, plain + b":\t" + value + b"\t", plain + b": " + value + b" ",
        plain + b" : " + value, plain + b"\t: " + value, b" " + plain + b": " + value,
        plain + b":\r\n " + value, plain + b":\r\n\t" + value, b"A: b\r\n " + plain + b": " + value,
        b"A: b\n" + plain + b": " + value, b"A: b\r" + plain + b": " + value, b"A: b\x00\r\n" + plain + b": " + value,
        plain + b"\x00: " + value, plain + b": \x00" + value, plain + b": " + value + b"\x00", plain + b"\xa0: " + value,
        plain + b": " + value + b"\r\n" + plain + b": " + value, plain + b": " + value + b", " + value,
        plain + b";: " + value, plain + b": \x0b" + value, b"\xef\xbb\xbf" + plain + b": " + value,
    ]  # fmt: skip


SPELT = [pytest.param(line, id=repr(line[:40])) for name in FORGED for line in spellings(name)]


def assert_own_or_refused(answers: list[Answer]) -> None:
    """Each response is alpha's hostname or a refusal."""
    for answer in answers:
        assert answer.status in (200, 400, 403), answer
        assert answer.status != 200 or answer.body.startswith(ALPHA.canary.encode()), answer


@pytest.mark.parametrize("name", FORGED)
def test_11_identity_header_of_a_guest_is_ignored(cloud: Cloud, name: str) -> None:
    (answer,) = cloud.ask_proxy(ALPHA, request("GET", HOSTNAME, {name: FORGED[name]}))
    assert answer.status == 200
    assert answer.body.startswith(ALPHA.canary.encode())


def test_11_all_identity_headers_of_a_guest_are_ignored(cloud: Cloud) -> None:
    for path in (HOSTNAME, "/openstack/latest/meta_data.json", "/openstack/latest/user_data"):
        (answer,) = cloud.ask_proxy(ALPHA, request("GET", path, FORGED))
        assert answer.status == 200
        assert ALPHA.canary.encode() in answer.body


@pytest.mark.parametrize("line", SPELT)
def test_12_header_variants_of_a_guest_are_ignored_or_refused(cloud: Cloud, line: bytes) -> None:
    head = b"GET " + HOSTNAME.encode() + b" HTTP/1.1\r\nHost: a\r\n"
    for data in (head + line + b"\r\n", head + b"Accept: */*\r\n" + line + b"\r\nX-Z: z\r\n"):
        answers = cloud.ask_proxy(ALPHA, data + b"Connection: close\r\n\r\n")
        assert answers
        assert_own_or_refused(answers)


@pytest.mark.parametrize("line", SPELT)
def test_12_header_variants_do_not_replace_signed_headers(cloud: Cloud, line: bytes) -> None:
    """A proxy may pass a guest's headers before or after those of the agent."""
    ours = "".join(f"{name}: {value}\r\n" for name, value in ALPHA.claim.items()).encode()
    head = b"GET " + HOSTNAME.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    for fields in (line + b"\r\n" + ours, ours + line + b"\r\n"):
        assert_own_or_refused(cloud.ask_api(ALPHA, head + fields + b"\r\n"))


@pytest.mark.parametrize("line", SPELT)
def test_12_header_variants_do_not_replace_the_proxys_headers(cloud: Cloud, line: bytes) -> None:
    """A guest's X-Forwarded-For precedes that of the proxy, because `option forwardfor` appends."""
    ours = f"X-Neutron-Network-ID: {NETWORK}\r\nX-Forwarded-For: {ALPHA.address}\r\n".encode()
    head = b"GET " + HOSTNAME.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    assert_own_or_refused(cloud.ask_agent(ALPHA, head + line + b"\r\n" + ours + b"\r\n"))


@pytest.mark.parametrize(
    ("address", "reason"), [(UNKNOWN_ADDRESS, "no instance's port has"), (SHARED_ADDRESS, "more than one port has")]
)
def test_5_address_without_a_unique_port_is_404(cloud: Cloud, address: str, reason: str) -> None:
    with capture_logs() as logs:
        (answer,) = cloud.ask_proxy(None, request("GET", HOSTNAME), address)
    assert answer.status == 404
    assert [line for line in logs if reason in str(line.get("reason"))]


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in ALPHA.claim.items() if key != name}


ROWS_28_TO_31 = [
    ("no signature", without("X-Instance-ID-Signature"), 400, b"X-Instance-ID-Signature"),
    ("a wrong signature", ALPHA.claim | {"X-Instance-ID-Signature": "0" * 64}, 403, b"Invalid proxy request signature"),
    ("an empty one", ALPHA.claim | {"X-Instance-ID-Signature": ""}, 403, b"signature"),
    ("an upper-case one", ALPHA.claim | {"X-Instance-ID-Signature": sign(SECRET, ALPHA.uuid).upper()}, 403, b""),
    ("beta's signature", ALPHA.claim | {"X-Instance-ID-Signature": sign(SECRET, BETA.uuid)}, 403, b"signature"),
    ("beta's id with alpha's signature", ALPHA.claim | {"X-Instance-ID": BETA.uuid}, 403, b"signature"),
    ("an upper-case id", ALPHA.claim | {"X-Instance-ID": ALPHA.uuid.upper()}, 403, b"signature"),
    ("another secret's", ALPHA.claim | {"X-Instance-ID-Signature": sign("other", ALPHA.uuid)}, 403, b"signature"),
    ("an empty secret's", ALPHA.claim | {"X-Instance-ID-Signature": sign("", ALPHA.uuid)}, 403, b"signature"),
    ("no instance id", without("X-Instance-ID"), 400, b"X-Instance-ID"),
    ("no tenant", without("X-Tenant-ID"), 400, b"X-Tenant-ID"),
    ("beta's tenant", ALPHA.claim | {"X-Tenant-ID": BETA.project_id}, 404, b""),
    ("an empty tenant", ALPHA.claim | {"X-Tenant-ID": ""}, 404, b""),
    ("a provider without an address", {"X-Metadata-Provider": "lb"}, 400, b"X-Forwarded-For"),
    (
        "an unknown provider",
        {"X-Metadata-Provider": "lb", "X-Metadata-Provider-Signature": sign(SECRET, "lb"), "X-Forwarded-For": "10.0.0.1"},
        400,
        b"provider lb",
    ),
    ("a provider's wrong signature", {"X-Metadata-Provider": "lb", "X-Forwarded-For": "10.0.0.1"}, 403, b"signature"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "status", "words"), [row[1:] for row in ROWS_28_TO_31], ids=[row[0] for row in ROWS_28_TO_31]
)
def test_28_to_30_invalid_identity_headers_are_refused(cloud: Cloud, headers, status: int, words: bytes) -> None:
    with capture_logs() as logs:
        (answer,) = cloud.ask_api(None, request("GET", HOSTNAME, headers))
    assert answer.status == status
    assert words in answer.body
    logged = repr(logs)
    secrets = (
        SECRET,
        sign(SECRET, ALPHA.uuid),
        sign(SECRET, BETA.uuid),
        headers.get("X-Instance-ID-Signature") or SECRET,
    )
    assert not [secret for secret in secrets if secret in logged]


def test_28_signature_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each signature is compared by hmac.compare_digest with the signatures of all secrets."""
    compared: list[bytes] = []

    def compare(ours: bytes, given: bytes) -> bool:
        compared.append(given)
        return ours == given

    monkeypatch.setattr("openimds.guest_identity.signature.hmac.compare_digest", compare)
    good = sign("new", "id")
    for signature in (good, "0" + good[1:], good[:-1] + "0", "", "x" * 64):
        compared.clear()
        matching_secret(("new", "old"), "id", signature)
        assert compared == [signature.encode()] * 2


def test_31_version_list_needs_no_identity(cloud: Cloud) -> None:
    (answer,) = cloud.ask_api(None, request("GET", "/"))
    assert answer.status == 200
    assert answer.body.endswith(b"latest")


def test_missing_or_repeated_identity_header_is_refused(cloud: Cloud) -> None:
    fields = list(ALPHA.claim.items())
    for missing, repeated in itertools.product(range(4), range(4)):
        chosen = [field for place, field in enumerate(fields) if place != missing] + [fields[repeated]]
        text = "".join(f"{name}: {value}\r\n" for name, value in chosen)
        data = f"GET {HOSTNAME} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{text}\r\n".encode()
        assert_own_or_refused(cloud.ask_api(ALPHA, data))
