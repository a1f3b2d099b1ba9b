"""Checklist rows 6, 7, 9, 10, and the token's path in row 8. (23 and 24 need the agent without HAProxy in front.)"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.security.cloud import ALPHA, BETA, Guest, instances_document, request
from tests.security.opinion import Answer
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
    """Alpha's. The next test starts without."""
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


def test_6_endpoint_disabled(cloud: Cloud) -> None:
    set_properties(cloud, HttpEndpoint="disabled")
    for path in EVERYTHING:
        assert ask(cloud, path).status == 403
    assert ask(cloud, TOKEN_PATH, {TTL: "60"}, method="PUT").status == 403
    (other,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME))
    assert other.status == 200


@pytest.mark.parametrize("ttl", [None, "", "0", "-1", "+1", "21601", "1.0", "0x10", "1e3", "60s", "60, 60", "9" * 4000])
def test_7_a_bad_ttl(cloud: Cloud, ttl: str | None) -> None:
    assert ask(cloud, TOKEN_PATH, {} if ttl is None else {TTL: ttl}, method="PUT").status == 400


def test_7_ttl_twice(cloud: Cloud) -> None:
    assert ask(cloud, TOKEN_PATH, {TTL: "60", TTL.upper(): "60"}, method="PUT").status == 400


@pytest.mark.parametrize("ttl", ["1", "21600"])
def test_7_a_good_one(cloud: Cloud, ttl: str) -> None:
    answer = ask(cloud, TOKEN_PATH, {TTL: ttl}, method="PUT")
    assert (answer.status, answer.header(TTL.lower())) == (200, ttl)
    assert answer.header("x-openimds-hop-limit") is None


@pytest.mark.parametrize("date", ["2021-03-23", "2009-04-04", "1.0"])
def test_7_dated_path(cloud: Cloud, date: str) -> None:
    assert ask(cloud, f"/{date}/api/token", {TTL: "60"}, method="PUT").status == 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-FOR", "Forwarded"])
def test_7_forwarded(cloud: Cloud, name: str) -> None:
    assert ask(cloud, TOKEN_PATH, {TTL: "60", name: ALPHA.address}, method="PUT").status == 403


def test_7_forwarded_to_stock_neutrons_proxy(cloud: Cloud) -> None:
    """It appends its own address behind the guest's."""
    network = {"X-Neutron-Network-ID": instances_document()["network_id"], TTL: "60"}
    for address, status in ((ALPHA.address, 200), (f"203.0.113.9, {ALPHA.address}", 403)):
        data = request("PUT", TOKEN_PATH, {**network, "X-Forwarded-For": address})
        (answer,) = cloud.ask_agent(ALPHA, data)
        assert answer.status == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PATCH", "put"])
def test_8_other_methods_on_the_tokens_path(cloud: Cloud, method: str) -> None:
    answer = ask(cloud, TOKEN_PATH, {TTL: "60", "Content-Length": "0"}, method=method)
    assert (answer.status, answer.header("allow")) == (405, "PUT")


@pytest.mark.parametrize("path", EC2)
def test_9_required(cloud: Cloud, path: str) -> None:
    good, others = token_of(cloud, ALPHA), token_of(cloud, BETA)
    set_properties(cloud, HttpTokens="required")
    for method in ("GET", "HEAD"):
        assert ask(cloud, path, method=method).status == 401
        for bad in ("", "x", good[:-1], good + "A", good.swapcase(), others, "A" * 8000):
            assert ask(cloud, path, {TOKEN: bad}, method=method).status == 401
        assert ask(cloud, path, {TOKEN: good}, method=method).status == (404 if path == "/nope" else 200)
    assert ask(cloud, DOCUMENT).status == 200


def test_9_required_of_openstack(cloud: Cloud) -> None:
    good = token_of(cloud, ALPHA)
    set_properties(cloud, OpenStackTokens="required")
    for path in (DOCUMENT, "/openstack", "/openstack/latest/password"):
        assert ask(cloud, path).status == 401
        assert ask(cloud, path, {TOKEN: good}).status == 200
    assert ask(cloud, HOSTNAME).status == 200


def test_9_what_was_read_with_a_token_is_not_read_without(cloud: Cloud) -> None:
    """One connection, the same document, with and without: nothing remembered of the one opens the other."""
    good = token_of(cloud, ALPHA)
    set_properties(cloud, HttpTokens="required")
    line = cloud.connect_api(ALPHA)
    stay = {"Connection": "keep-alive"}
    for headers in ({TOKEN: good}, {}, {TOKEN: good}, {"Connection": "close"}):
        line.send(request("GET", HOSTNAME, ALPHA.claim | stay | headers))
    line.finish()
    statuses = [int(part.split(b" ")[1]) for part in bytes(line.transcript.raw).split(b"HTTP/1.1")[1:] if part]
    assert statuses == [200, 401, 200, 401]


def test_9_what_was_read_before_it_was_required(cloud: Cloud) -> None:
    for _ in range(3):
        assert ask(cloud, HOSTNAME).status == 200
    set_properties(cloud, HttpTokens="required")
    assert ask(cloud, HOSTNAME).status == 401


@pytest.fixture
def alphas(cloud: Cloud) -> str:
    return token_of(cloud, ALPHA)


@pytest.fixture
def moved(cloud: Cloud, alphas: str) -> Iterator[None]:
    """Alpha's address is beta's now."""
    before = cloud.ports.ports
    alpha, beta = before[f"port-{ALPHA.label}"], before[f"port-{BETA.label}"]
    after = {key: port for key, port in before.items() if port is not alpha}
    cloud.ports.ports = after | {beta.id: replace(beta, fixed_ips=alpha.fixed_ips)}
    cloud.ports.revision += 1
    yield
    cloud.ports.ports = before
    cloud.ports.revision += 1


def test_10_the_address_moved(cloud: Cloud, alphas: str, moved: None) -> None:
    (answer,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME, {TOKEN: alphas}), ALPHA.address)
    assert answer.status == 401
    (own,) = cloud.ask_proxy(BETA, request("GET", HOSTNAME), ALPHA.address)
    assert own.body.startswith(BETA.canary.encode())
