"""Checklist rows 1-3, 8, 16, 17, 19 and 22: paths, methods, pipelining and passwords."""

from __future__ import annotations

import json

import pytest
from tests.security.instances import ALPHA, BETA, GUESTS, NETWORK, Guest, request
from tests.security.responses import Answer, answers
from tests.security.stage import Cloud


def get(cloud: Cloud, guest: Guest, path: str, method: str = "GET") -> Answer:
    (answer,) = cloud.ask_proxy(guest, request(method, path))
    return answer


JSON = ("/meta_data.json", "/vendor_data.json", "/vendor_data2.json")
"""The documents with a JSON content type in nova. network_data.json is text there."""


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.label)
def test_1_and_2_all_listed_paths_exist(cloud: Cloud, guest: Guest) -> None:
    paths = ["/", "/latest", "/openstack", "/openstack/latest", "/latest/user-data"]
    paths += [f"/openstack/latest/{name}" for name in get(cloud, guest, "/openstack/latest").body.decode().split("\n")]
    paths += ec2_paths(cloud, guest, "/latest/meta-data/")
    assert len(paths) > 30
    for path in paths:
        answer, head = get(cloud, guest, path), get(cloud, guest, path, "HEAD")
        if path.endswith("/password"):
            assert (answer.status, head.status) == (200, 400)
            continue
        assert (answer.status, head.status) == (200, 200), path
        assert head.body == b""
        assert head.header("content-length") == str(len(answer.body)), path
        kind = "application/json" if path.endswith(JSON) else "text/plain; charset=UTF-8"
        assert answer.header("content-type") == kind, path


def ec2_paths(cloud: Cloud, guest: Guest, folder: str) -> list[str]:
    paths = [folder]
    for name in get(cloud, guest, folder).body.decode().split("\n"):
        place = name.split("=")[0] + ("/" if "=" in name else "")
        paths += ec2_paths(cloud, guest, folder + place) if place.endswith("/") else [folder + place]
    return paths


def test_documents_contain_the_canary(cloud: Cloud) -> None:
    """Shows that the search for the other instance's canary can fail."""
    for guest in GUESTS:
        for path in ("openstack/latest/meta_data.json", "openstack/latest/user_data", "latest/meta-data/hostname"):
            assert guest.canary.encode() in get(cloud, guest, f"/{path}").body
    assert json.loads(get(cloud, ALPHA, "/openstack/latest/meta_data.json").body)["uuid"] == ALPHA.uuid


@pytest.mark.parametrize(
    "path",
    [
        "/nope", "/latest/nope", "/latest/meta-data/nope", "/latest/meta-data/hostname/x", "/2007-01-20/meta-data/",
        "/openstack/nope", "/openstack/2011-01-01/meta_data.json", "/openstack/latest/nope.json",
        "/openstack/content/0000", "/openstack/latest/user_data/x",
    ],
)  # fmt: skip
def test_3_unknown_path_is_404(cloud: Cloud, path: str) -> None:
    assert get(cloud, ALPHA, path).status == 404


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "OPTIONS", "FOO", "get"])
@pytest.mark.parametrize("path", ["/latest/meta-data/hostname", "/openstack/latest/meta_data.json", "/"])
def test_8_other_method_is_405(cloud: Cloud, method: str, path: str) -> None:
    (answer,) = cloud.ask_proxy(ALPHA, request(method, path, {"Content-Length": "0"}))
    assert answer.status == 405
    assert answer.header("allow") == "GET, HEAD"


@pytest.mark.parametrize("target", ["/", "/latest/meta-data/hostname", "/nope", "*"])
@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_8_trace_and_connect_close_the_connection(cloud: Cloud, target: str, method: str) -> None:
    """The metadata API answers an unknown path with 404, as nova does. The agent refuses these methods before it forwards."""
    data = request(method, target, {"Connection": "keep-alive", **ALPHA.claim}) + request("GET", "/", ALPHA.claim)
    scope = {"X-Neutron-Network-ID": NETWORK, "X-Forwarded-For": ALPHA.address}
    (from_agent,) = cloud.ask_agent(ALPHA, request(method, target, {"Connection": "keep-alive", **scope}) + data)
    assert (from_agent.status, from_agent.closes) == (405, True)
    (from_api,) = cloud.ask_api(ALPHA, data)
    assert (from_api.status, from_api.closes) == ({"/nope": 404, "*": 400}.get(target, 405), True)


def test_16_pipelined_requests_are_answered_in_order(cloud: Cloud) -> None:
    paths = ["/latest/meta-data/hostname", "/openstack/latest/user_data", "/nope", "/latest/meta-data/instance-id"] * 5
    for guest in GUESTS:
        line = cloud.connect_proxy(guest)
        line.send(b"".join(request("GET", path, {"Connection": "keep-alive"}) for path in paths))
        line.send(request("GET", "/latest/meta-data/local-hostname"))
        got = answers(line.finish(), [])
        single = [get(cloud, guest, path) for path in paths]
        assert [(one.status, one.body) for one in got[:-1]] == [(one.status, one.body) for one in single]


def test_16_pipelined_requests_of_two_instances_get_their_own_data(cloud: Cloud) -> None:
    """A pooled connection carries requests for both instances. Each response belongs to the signed instance."""
    pairs = [ALPHA, BETA, BETA, ALPHA, BETA] * 20
    line = cloud.connect_api(None)
    cloud.transcripts.remove(line.transcript)  # it contains both canaries and is checked below
    path = "/openstack/latest/meta_data.json"
    line.send(b"".join(request("GET", path, {"Connection": "keep-alive", **guest.claim}) for guest in pairs))
    line.send(request("GET", "/"))
    got = answers(line.finish(), [])
    assert [json.loads(one.body)["uuid"] for one in got[:-1]] == [guest.uuid for guest in pairs]
    for guest, answer in zip(pairs, got, strict=False):
        other = BETA if guest is ALPHA else ALPHA
        assert not [secret for secret in other.secrets if secret in answer.body]


def test_19_password_is_stored_once(cloud: Cloud) -> None:
    path = "/openstack/latest/password"
    steps = [
        ("GET", b"", 200), ("POST", b"canary-of-alpha: encrypted", 200), ("POST", b"another", 409), ("GET", b"", 200),
        ("PUT", b"x", 400), ("DELETE", b"", 400), ("HEAD", b"", 400), ("GET", b"", 200),
    ]  # fmt: skip
    for method, body, status in steps:
        (answer,) = cloud.ask_proxy(ALPHA, request(method, path, {"Content-Length": str(len(body))}, body))
        assert answer.status == status, method
    assert answer.body == b"canary-of-alpha: encrypted"
    assert get(cloud, BETA, path).body == b""


def test_17_password_is_at_most_1020_bytes(cloud: Cloud) -> None:
    path = "/openstack/latest/password"
    assert cloud.ask_proxy(ALPHA, request("POST", path, body=b"x" * 1021))[0].status == 400
    assert get(cloud, ALPHA, path).body == b""
    assert cloud.ask_proxy(ALPHA, request("POST", path, body=b"x" * 1020))[0].status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/latest/meta-data/../meta-data/hostname", 200), ("//latest//meta-data//hostname", 200),
        ("/latest/./meta-data/hostname", 200), ("/latest/meta-data/%68ostname", 200),
        ("/openstack/%2e%2e/openstack/latest/user_data", 200), ("/../../../../latest/meta-data/hostname", 200),
        ("/latest/meta-data/hostname%00", 404), ("/latest/meta-data/%00", 404), ("/..%2f..%2fetc/passwd", 404),
        ("/%2e%2e/%2e%2e/%2e%2e/etc/passwd", 404), ("/etc/passwd", 404), ("/latest/user-data/../../etc/passwd", 404),
        ("/openstack/content/../../../etc/passwd", 404), ("/latest/meta-data/hostname%0d%0aX-A:%20b", 404),
        ("/latest/%c0%ae%c0%ae/meta-data", 404), ("/latest/meta-data/%zz", 404), ("/latest/meta-data/" + "a/" * 2000, 404),
        ("/latest/meta-data/%2568ostname", 404),
    ],
)  # fmt: skip
def test_22_path_traversal_reads_no_file(cloud: Cloud, target: str, status: int) -> None:
    for ask, headers in ((cloud.ask_api, ALPHA.claim), (cloud.ask_proxy, {})):
        (answer,) = ask(ALPHA, request("GET", target, headers))
        assert answer.status == status, ask
        assert b"root:" not in answer.body
        if status == 200:
            assert ALPHA.canary.encode() in answer.body


def test_22_path_beyond_the_limit_is_414(cloud: Cloud) -> None:
    (answer,) = cloud.ask_api(ALPHA, request("GET", "/" + "a" * 9000, ALPHA.claim))
    assert (answer.status, answer.closes) == (414, True)
