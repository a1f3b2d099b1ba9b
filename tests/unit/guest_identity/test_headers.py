"""Identity headers: their names, their values, and the errors of unacceptable ones."""

from __future__ import annotations

import pytest

from openimds.guest_identity.headers import (
    HeaderError,
    InstanceClaim,
    Origin,
    instance_claim,
    is_identity_claim,
    origin,
    provider_claim,
    values,
)

ID = (b"X-Instance-ID", b"vm-1")
SIGNATURE = (b"X-Instance-ID-Signature", b"abc")
TENANT = (b"X-Tenant-ID", b"tenant")
FORWARDED = (b"X-Forwarded-For", b"10.0.0.5")
NETWORK = (b"X-Neutron-Network-ID", b"net-1")
ROUTER = (b"X-Neutron-Router-ID", b"router-1")


def test_the_headers_of_an_instance_claim_are_read():
    assert instance_claim([FORWARDED, ID, TENANT, SIGNATURE]) == InstanceClaim(
        instance_id="vm-1", signature="abc", tenant_id="tenant", address="10.0.0.5"
    )
    lower = [(name.lower(), value) for name, value in (ID, TENANT, SIGNATURE)]
    assert instance_claim(lower).address is None


@pytest.mark.parametrize(
    ("headers", "header"),
    [
        ([], "X-Instance-ID"),
        ([TENANT, SIGNATURE], "X-Instance-ID"),
        ([TENANT], "X-Instance-ID"),
        ([ID, TENANT], "X-Instance-ID-Signature"),
        ([ID], "X-Instance-ID-Signature"),
        ([ID, SIGNATURE], "X-Tenant-ID"),
        ([(b"X_Instance_ID", b"vm-1"), TENANT, SIGNATURE], "X-Instance-ID"),
        ([(b"X-Instance_ID", b"vm-1"), TENANT, SIGNATURE], "X-Instance-ID"),
    ],
)
def test_a_missing_header_is_named_in_novas_order(headers, header):
    with pytest.raises(HeaderError, match=f"^{header} header is missing from request.$") as caught:
        instance_claim(headers)
    assert caught.value.header == header


@pytest.mark.parametrize(
    ("repeated", "header"),
    [
        (ID, "X-Instance-ID"),
        (SIGNATURE, "X-Instance-ID-Signature"),
        (TENANT, "X-Tenant-ID"),
        ((b"x-tenant-id", b"other"), "X-Tenant-ID"),
    ],
)
def test_a_repeated_header_is_named(repeated, header):
    with pytest.raises(HeaderError, match=f"^Multiple {header} headers found within request.$"):
        instance_claim([ID, SIGNATURE, TENANT, repeated])


def test_the_headers_of_a_provider_claim_are_read():
    provider = (b"X-Metadata-Provider", b"p")
    claim = provider_claim(
        [provider, (b"X-Metadata-Provider-Signature", b"s"), (b"X-Forwarded-For", b"10.0.0.5, 1.1.1.1")]
    )
    assert claim is not None
    assert (claim.provider_id, claim.signature, claim.address) == ("p", "s", "10.0.0.5")
    unsigned = provider_claim([provider, FORWARDED])
    assert unsigned is not None
    assert unsigned.signature == ""
    assert provider_claim([FORWARDED]) is None
    assert provider_claim([(b"X-Metadata-Provider", b""), FORWARDED]) is None
    with pytest.raises(HeaderError, match="X-Forwarded-For"):
        provider_claim([provider])


def test_the_origin_is_a_network_or_a_router_and_an_address():
    assert origin([NETWORK, FORWARDED]) == Origin(network_id="net-1", router_id=None, address="10.0.0.5")
    assert origin([ROUTER, FORWARDED]) == Origin(network_id=None, router_id="router-1", address="10.0.0.5")
    assert origin([FORWARDED]) == Origin(network_id=None, router_id=None, address="10.0.0.5")


def test_the_last_forwarded_address_is_used():
    sent_by_client = (b"X-Forwarded-For", b"10.0.0.66, 10.0.0.67")
    assert origin([NETWORK, sent_by_client, FORWARDED]).address == "10.0.0.5"
    assert origin([NETWORK, (b"X-Forwarded-For", b"10.0.0.66, 10.0.0.5")]).address == "10.0.0.5"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([NETWORK, ROUTER, FORWARDED], "exclude each other"),
        ([NETWORK, NETWORK, FORWARDED], "Multiple X-Neutron-Network-ID"),
        ([ROUTER, ROUTER, FORWARDED], "Multiple X-Neutron-Router-ID"),
        ([NETWORK], "X-Forwarded-For header is missing"),
        ([NETWORK, (b"X_Forwarded_For", b"10.0.0.5")], "X-Forwarded-For header is missing"),
    ],
)
def test_ambiguous_and_incomplete_origins_are_rejected(headers, words):
    with pytest.raises(HeaderError, match=words):
        origin(headers)


@pytest.mark.parametrize(
    "name",
    [
        b"X-Instance-ID",
        b"x_instance_id",
        b"X-INSTANCE_ID-Signature",
        b"X-Instance-ID-Signature2",
        b"X-Tenant-ID",
        b"x-forwarded-for",
        b"Forwarded",
        b"X-Real-IP",
        b"X-Neutron-Network-ID",
        b"x_neutron_anything",
        b"X-OVN-Network-ID",
        b"X-Metadata-Provider-Signature",
        b"X-Tenant-ID ",
    ],
)
def test_identity_headers_are_recognised_in_any_spelling(name):
    assert is_identity_claim(name)


@pytest.mark.parametrize("name", [b"Host", b"Accept", b"X-Forwarded", b"X-Instance"])
def test_other_headers_are_not_identity_headers(name):
    assert not is_identity_claim(name)


def test_cached_values_belong_to_their_own_headers():
    one, other = ((b"A", b"1"), (b"a", b"2")), ((b"A", b"3"),)
    assert [values(one, "a"), values(other, "A"), values(one, "A"), values(one, "b")] == [
        ["1", "2"],
        ["3"],
        ["1", "2"],
        [],
    ]
    growing = [(b"A", b"1")]
    assert values(growing, "A") == ["1"]
    growing.append((b"A", b"2"))
    assert values(growing, "A") == ["1", "2"]
