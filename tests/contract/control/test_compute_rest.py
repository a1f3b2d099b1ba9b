"""Compute's smaller collections: key pairs, flavors, hosts, quotas; and Nova's other routes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tests.contract.control.stage import Cloud, ComputeAgent, Session

KEYS = "/compute/v2.1/os-keypairs"
FLAVORS = "/compute/v2.1/flavors"
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3Jx4s4KpkVRTAB0mZ5UuO1nH3sMYXwQyZ9mXW3kUPv"


def test_ssh_key_is_generated(admin: Session) -> None:
    answer = admin.call("POST", KEYS, {"keypair": {"name": "made"}})
    assert answer.status_code == 200
    made = answer.json()["keypair"]
    private = serialization.load_pem_private_key(made["private_key"].encode(), None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert made["public_key"].startswith(public.decode())
    assert len(made["fingerprint"].split(":")) == 16
    assert "private_key" not in admin.get(f"{KEYS}/made")["keypair"]
    assert admin.call("DELETE", f"{KEYS}/made").status_code == 202
    admin.refused(404, "GET", f"{KEYS}/made")


def test_x509_certificate_is_generated(admin: Session) -> None:
    asked = {"keypair": {"name": "win", "type": "x509"}}
    answer = admin.call("POST", KEYS, asked, "2.2")
    assert answer.status_code == 201
    certificate = x509.load_pem_x509_certificate(answer.json()["keypair"]["public_key"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert b"@localhost" in names.get_values_for_type(x509.OtherName)[0].value
    again = {"keypair": {**asked["keypair"], "name": "w2", "public_key": answer.json()["keypair"]["public_key"]}}
    assert admin.post(KEYS, again, "2.2")["keypair"]["fingerprint"] == answer.json()["keypair"]["fingerprint"]


def test_imported_keys_belong_to_their_user(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("kim")
    made = user.post(KEYS, {"keypair": {"name": "mine", "public_key": ED25519 + " kim@home", "type": "ssh"}}, "2.96")
    assert made["keypair"]["type"] == "ssh"
    user.refused(409, "POST", KEYS, {"keypair": {"name": "mine", "public_key": ED25519}})
    assert [item["keypair"]["name"] for item in user.get(KEYS)["keypairs"]] == ["mine"]
    admin.refused(404, "GET", f"{KEYS}/mine")
    assert admin.get(f"{KEYS}/mine?user_id={user.user_id}", "2.10")["keypair"]["user_id"] == user.user_id
    user.refused(403, "GET", f"{KEYS}?user_id={admin.user_id}", version="2.10")
    assert user.call("DELETE", f"{KEYS}/mine", version="2.2").status_code == 204


@pytest.mark.parametrize(
    "key", ["ssh-rsa", "ssh-rsa !!!", ED25519.replace("ssh-ed25519", "ssh-rsa"), ED25519 + "\nssh-rsa AAAA"]
)
def test_malformed_keys_are_rejected(admin: Session, key: str) -> None:
    assert "public_key" in admin.refused(400, "POST", KEYS, {"keypair": {"name": "bad", "public_key": key}})


def test_key_pairs_follow_the_microversion(admin: Session) -> None:
    assert "public_key" in admin.refused(400, "POST", KEYS, {"keypair": {"name": "n"}}, "2.92")
    assert "type" in admin.refused(400, "POST", KEYS, {"keypair": {"name": "n", "type": "ssh"}}, "2.1")
    assert "name" in admin.refused(400, "POST", KEYS, {"keypair": {"name": "a/b", "public_key": ED25519}})


def test_flavors_are_created_listed_and_deleted(cloud: Cloud, admin: Session) -> None:
    asked = {"name": "big", "ram": 1024, "vcpus": 2, "disk": 3, "id": "big1", "swap": 4}
    made = admin.post(FLAVORS, {"flavor": asked}, "2.96")["flavor"]
    assert (made["id"], made["swap"], made["OS-FLV-EXT-DATA:ephemeral"]) == ("big1", 4, 0)
    admin.refused(409, "POST", FLAVORS, {"flavor": asked})
    assert admin.get(f"{FLAVORS}/1", "2.1")["flavor"]["swap"] == ""
    specs = f"{FLAVORS}/big1/os-extra_specs"
    assert admin.post(specs, {"extra_specs": {"a": "1"}})["extra_specs"] == {"a": "1"}
    assert admin.put(f"{specs}/b", {"b": "2"}) == {"b": "2"}
    assert admin.call("DELETE", f"{specs}/a").status_code == 200
    assert admin.get(f"{FLAVORS}/big1", "2.61")["flavor"]["extra_specs"] == {"b": "2"}
    names = [item["name"] for item in admin.get(f"{FLAVORS}/detail?minRam=8192&sort_key=name")["flavors"]]
    assert names == ["m1.large", "m1.xlarge"]
    user = cloud.member("fay")
    user.refused(403, "POST", FLAVORS, {"flavor": asked})
    admin.post(FLAVORS, {"flavor": {**asked, "name": "hidden", "id": "h", "os-flavor-access:is_public": False}})
    user.refused(404, "GET", f"{FLAVORS}/h")
    assert admin.call("DELETE", f"{FLAVORS}/h").status_code == 202
    for sent, word in (({"name": "x", "vcpus": 1, "disk": 1}, "ram"), ({**asked, "ram": 0}, "ram")):
        assert word in admin.refused(400, "POST", FLAVORS, {"flavor": sent})
    page = admin.get(f"{FLAVORS}?limit=1")
    assert page["flavors_links"][0]["rel"] == "next"


def test_hosts_are_shown_as_hypervisors_and_services(admin: Session, agent: ComputeAgent) -> None:
    agent.heartbeat()
    host = admin.get("/compute/v2.1/os-hypervisors/detail", "2.53")["hypervisors"][0]
    assert (host["hypervisor_hostname"], host["state"], host["hypervisor_type"]) == ("node1", "up", "netns")
    assert admin.get(f"/compute/v2.1/os-hypervisors/{host['id']}", "2.96")["hypervisor"]["status"] == "enabled"
    service = admin.get("/compute/v2.1/os-services", "2.96")["services"][0]
    assert (service["binary"], service["state"], service["zone"]) == ("openimds-compute-agent", "up", "nova")
    zones = admin.get("/compute/v2.1/os-availability-zone/detail")["availabilityZoneInfo"]
    assert zones[0]["hosts"]["node1"]["openimds-compute-agent"]["available"] is True


def test_limits_and_quotas_are_shown(cloud: Cloud, admin: Session) -> None:
    assert admin.get("/compute/v2.1/limits")["limits"]["absolute"]["maxServerMeta"] == 128
    quotas = admin.get(f"/compute/v2.1/os-quota-sets/{admin.project_id}")["quota_set"]
    assert quotas["instances"] == 10_000
    cloud.member("quentin").refused(404, "GET", f"/compute/v2.1/os-quota-sets/{admin.project_id}")
    admin.refused(501, "PUT", f"/compute/v2.1/os-quota-sets/{admin.project_id}", {})


def test_unsupported_routes_are_501(admin: Session) -> None:
    for path in ("os-simple-tenant-usage", "os-server-groups", "os-aggregates"):
        assert "not" in admin.refused(501, "GET", f"/compute/v2.1/{path}")
    assert "not part" in admin.refused(404, "GET", "/compute/v2.1/os-fixed-ips/1")
    answer = admin.call("GET", "/compute/v2.1/os-fixed-ips/1")
    assert answer.json()["itemNotFound"]["code"] == 404
    assert "NeutronError" in admin.call("GET", "/network/v2.0/lbaas").json()


def test_openapi_document_is_served(admin: Session) -> None:
    document = admin.get("/openapi.json")
    assert "/compute/v2.1/servers" in document["paths"]
    assert "user_data" in document["components"]["schemas"]["ServerFields"]["properties"]


def test_health_and_metrics_are_served(cloud: Cloud, admin: Session) -> None:
    assert admin.get("/healthcheck") == {"status": "ok"}
    text = admin.call("GET", "/metrics").text
    assert 'openimds_control_requests_total{service="compute",status="200"}' in text


def test_reader_can_read_and_not_change(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("rita")
    roles = {role["name"]: role["id"] for role in admin.get("/v3/roles")["roles"]}
    held = f"/v3/projects/{user.project_id}/users/{user.user_id}/roles"
    admin.call("PUT", f"{held}/{roles['reader']}")
    admin.call("DELETE", f"{held}/{roles['member']}")
    assert user.get("/compute/v2.1/servers")["servers"] == []
    for path in ("/compute/v2.1/servers", "/network/v2.0/networks", "/image/v2/images"):
        assert "member" in user.refused(403, "POST", path, {})


def test_body_beyond_the_limit_is_413(cloud: Cloud, admin: Session) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"[" * 65536

    for path in ("/compute/v2.1/servers", "/v3/auth/tokens", "/image/v2/images"):
        with contextlib.suppress(requests.ConnectionError):  # it may hang up before all is sent
            assert admin.call("POST", path, data=endless()).status_code == 413
    assert admin.get("/healthcheck") == {"status": "ok"}


def test_unavailable_store_is_503(cloud: Cloud, admin: Session) -> None:
    file = cloud.state / "openimds.sqlite"
    away = file.with_suffix(".away")
    cloud.store.close()
    file.rename(away)
    file.mkdir()
    try:
        for path in ("/healthcheck", "/compute/v2.1/servers", "/v3/projects"):
            answer = admin.call("GET", path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert "openimds.sqlite" not in answer.text
    finally:
        file.rmdir()
        away.rename(file)
    assert admin.get("/compute/v2.1/servers")["servers"] == []
