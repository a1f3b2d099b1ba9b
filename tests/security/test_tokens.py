"""Checklist rows 6, 7, 9 and 10, and row 8 for the token path. Rows 23 and 24 need direct mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.security.instances import ALPHA, BETA, Guest, instances_document, request
from tests.security.responses import Answer
from tests.security.stage import Cloud

from openimds.resources.instance import ChangeSet

TOKEN_PATH = "/latest/api/token"
HOSTNAME = "/latest/meta-data/hostname"
DOCUMENT = "/openstack/latest/meta_data.json"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
EVERYTHING = ("/", HOSTNAME, "/latest/user-data", DOCUMENT, "/openstack", "/openstack/latest/password", "/nope")
EC2 = ("/", "/latest", "/1.0/meta-data/", HOSTNAME, "/ec2/latest/user-data", "//latest/./user-data", "/nope")


def set_properties(cloud: Cloud, **properties: str) -> None:
    """Sets alpha's `imds:` properties until the end of the test."""
    document = instances_document()
    alpha = next(entry for entry in document["instances"] if entry["uuid"] == ALPHA.uuid)
    alpha["metadata"] |= {f"imds:{name}": value for name, value in properties.items()}
    cloud.api_stage.instances.import_instances(document)
    cloud.api_stage.records.forget(ChangeSet(revision=0, everything=True))


def ask(cloud: Cloud, path: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Answer:
    (answer,) = cloud.ask_proxy(ALPHA, request(method, path, headers))
    return answer


def token_of(cloud: Cloud, guest: Guest) -> str:
    (answer,) = cloud.ask_proxy(guest, request("PUT", TOKEN_PATH, {TTL: "60"}))
    assert (answer.status, answer.header(TTL.lower())) == (200, "60")
    assert answer.header("content-type") == "text/plain; charset=UTF-8"
    return answer.body.decode()


def test_6_disabled_endpoint_is_403(cloud: Cloud) -> None:
    set_properties(cloud, HttpEndpoint="disabled")
    for path in EVERYTHING:
        assert ask(cloud, path).status == 403
    assert ask(cloud, TOKEN_PATH, {TTL: "60"}, method="PUT").status == 403
    (other,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME))
    assert other.status == 200


@pytest.mark.parametrize("ttl", [None, "", "0", "-1", "+1", "21601", "1.0", "0x10", "1e3", "60s", "60, 60", "9" * 4000])
def test_7_invalid_ttl_is_400(cloud: Cloud, ttl: str | None) -> None:
    assert ask(cloud, TOKEN_PATH, {} if ttl is None else {TTL: ttl}, method="PUT").status == 400


def test_7_repeated_ttl_is_400(cloud: Cloud) -> None:
    assert ask(cloud, TOKEN_PATH, {TTL: "60", TTL.upper(): "60"}, method="PUT").status == 400


def test_7_token_request_of_an_agent_that_drops_the_ttl_is_404(cloud: Cloud) -> None:
    """Stock neutron's metadata agent signs a token request and drops all headers of the guest."""
    line = cloud.connect_api(ALPHA)
    line.send(request("PUT", TOKEN_PATH, ALPHA.claim | {"Content-Length": "0", "Connection": "close"}))
    line.finish()
    assert bytes(line.transcript.raw).split(b" ", 2)[1] == b"404"
    assert ask(cloud, TOKEN_PATH, {"X-Openimds-Token-Headers": ""}, method="PUT").status == 400


@pytest.mark.parametrize("ttl", ["1", "21600"])
def test_7_valid_ttl_is_returned(cloud: Cloud, ttl: str) -> None:
    answer = ask(cloud, TOKEN_PATH, {TTL: ttl}, method="PUT")
    assert (answer.status, answer.header(TTL.lower())) == (200, ttl)
    assert answer.header("x-openimds-hop-limit") is None


@pytest.mark.parametrize("date", ["2021-03-23", "2009-04-04", "1.0"])
def test_7_dated_token_path_is_403(cloud: Cloud, date: str) -> None:
    assert ask(cloud, f"/{date}/api/token", {TTL: "60"}, method="PUT").status == 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-FOR", "Forwarded"])
def test_7_forwarded_token_request_is_403(cloud: Cloud, name: str) -> None:
    assert ask(cloud, TOKEN_PATH, {TTL: "60", name: ALPHA.address}, method="PUT").status == 403


def test_7_token_request_forwarded_by_a_guest_is_403_behind_stock_neutrons_proxy(cloud: Cloud) -> None:
    """Stock neutron's proxy appends the client's address to the guest's header."""
    network = {"X-Neutron-Network-ID": instances_document()["network_id"], TTL: "60"}
    for address, status in ((ALPHA.address, 200), (f"203.0.113.9, {ALPHA.address}", 403)):
        data = request("PUT", TOKEN_PATH, {**network, "X-Forwarded-For": address})
        (answer,) = cloud.ask_agent(ALPHA, data)
        assert answer.status == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PATCH", "put"])
def test_8_other_method_on_the_token_path_is_405(cloud: Cloud, method: str) -> None:
    answer = ask(cloud, TOKEN_PATH, {TTL: "60", "Content-Length": "0"}, method=method)
    assert (answer.status, answer.header("allow")) == (405, "PUT")


@pytest.mark.parametrize("path", EC2)
def test_9_required_token_is_enforced(cloud: Cloud, path: str) -> None:
    good, others = token_of(cloud, ALPHA), token_of(cloud, BETA)
    set_properties(cloud, HttpTokens="required")
    for method in ("GET", "HEAD"):
        assert ask(cloud, path, method=method).status == 401
        for bad in ("", "x", good[:-1], good + "A", good.swapcase(), others, "A" * 8000):
            assert ask(cloud, path, {TOKEN: bad}, method=method).status == 401
        assert ask(cloud, path, {TOKEN: good}, method=method).status == (404 if path == "/nope" else 200)
    assert ask(cloud, DOCUMENT).status == 200


def test_9_required_token_is_enforced_for_openstack(cloud: Cloud) -> None:
    good = token_of(cloud, ALPHA)
    set_properties(cloud, OpenStackTokens="required")
    for path in (DOCUMENT, "/openstack", "/openstack/latest/password"):
        assert ask(cloud, path).status == 401
        assert ask(cloud, path, {TOKEN: good}).status == 200
    assert ask(cloud, HOSTNAME).status == 200


def test_9_document_read_with_a_token_is_not_cached_for_requests_without(cloud: Cloud) -> None:
    """Requests with and without a token alternate on one connection."""
    good = token_of(cloud, ALPHA)
    set_properties(cloud, HttpTokens="required")
    line = cloud.connect_api(ALPHA)
    stay = {"Connection": "keep-alive"}
    for headers in ({TOKEN: good}, {}, {TOKEN: good}, {"Connection": "close"}):
        line.send(request("GET", HOSTNAME, ALPHA.claim | stay | headers))
    line.finish()
    statuses = [int(part.split(b" ")[1]) for part in bytes(line.transcript.raw).split(b"HTTP/1.1")[1:] if part]
    assert statuses == [200, 401, 200, 401]


def test_9_document_read_before_tokens_were_required_is_not_cached(cloud: Cloud) -> None:
    for _ in range(3):
        assert ask(cloud, HOSTNAME).status == 200
    set_properties(cloud, HttpTokens="required")
    assert ask(cloud, HOSTNAME).status == 401


@pytest.fixture
def alpha_token(cloud: Cloud) -> str:
    return token_of(cloud, ALPHA)


@pytest.fixture
def moved(cloud: Cloud, alpha_token: str) -> Iterator[None]:
    """Moves alpha's address to beta's port."""
    before = cloud.ports.ports
    alpha, beta = before[f"port-{ALPHA.label}"], before[f"port-{BETA.label}"]
    after = {key: port for key, port in before.items() if port is not alpha}
    cloud.ports.ports = after | {beta.id: replace(beta, fixed_ips=alpha.fixed_ips)}
    cloud.ports.revision += 1
    yield
    cloud.ports.ports = before
    cloud.ports.revision += 1


def test_10_token_is_invalid_for_the_new_owner_of_the_address(cloud: Cloud, alpha_token: str, moved: None) -> None:
    (answer,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME, {TOKEN: alpha_token}), ALPHA.address)
    assert answer.status == 401
    (own,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME), ALPHA.address)
    assert own.body.startswith(BETA.canary.encode())
