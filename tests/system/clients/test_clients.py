"""Clients of other people, run in an instance's namespace, by HAProxy and without: what each found, beside what the
control API knows.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.system.clients.tenant import ServerRecord, Tenant
from tests.system.cloud import run
from tests.waiting import INSTALL_SECONDS, until

pytestmark = pytest.mark.usefixtures("metadata_proxy")

HERE = Path(__file__).parent
BUILT = Path(__file__).parents[3] / "build" / "clients"
PROPERTIES = {"imds:HttpTokens": "required", "imds:InstanceMetadataTags": "enabled", "role": "web"}


@pytest.fixture(scope="module")
def installed() -> Path:
    """By `make test` beforehand, or now."""
    run([str(HERE.parents[2] / "scripts" / "install-test-clients")], timeout_seconds=INSTALL_SECONDS)
    return BUILT


@pytest.fixture(scope="module")
def open_instance(tenant: Tenant) -> ServerRecord:
    """Tokens are optional, as a deployment begins."""
    return booted(tenant, "open", {"role": "db"})


@pytest.fixture(scope="module")
def strict_instance(tenant: Tenant) -> ServerRecord:
    """Its EC2 tree answers tokens only; its properties are readable as tags."""
    return booted(tenant, "strict", PROPERTIES)


def booted(tenant: Tenant, name: str, properties: dict[str, str]) -> ServerRecord:
    server = tenant.create(name, "m1.tiny", f"#!/bin/sh\necho canary of {name}\n", properties)
    tenant.wait_active(server)
    tenant.wait_reaching(server)
    return server


def probed(tenant: Tenant, server: ServerRecord, installed: Path, probe: str, *arguments: str) -> Any:
    """What a probe printed, run in the instance's namespace."""
    argv = [str(installed / "venv" / "bin" / "python"), str(HERE / "probes" / probe), *arguments]
    return json.loads(tenant.cloud.inside(f"qvm-{server.id}", *argv).splitlines()[-1])


def test_botocore_with_tokens_required(tenant: Tenant, strict_instance: ServerRecord, installed: Path) -> None:
    found = probed(tenant, strict_instance, installed, "botocore_fetcher.py")
    assert found["has-token"]
    assert found["instance-id"].startswith("i-")
    assert found["local-ipv4"] == strict_instance.address
    assert found["instance-type"] == strict_instance.flavor
    assert found["placement/availability-zone"] == strict_instance.zone
    assert found["region"] == strict_instance.zone[:-1], "a region is a zone without its letter, it thinks"
    assert found["credentials"] == {}, "no roles here: 404, and it goes on without"
    assert not found["session-credentials"]


def test_nothing_is_read_without_a_token_where_it_is_required(tenant: Tenant, strict_instance: ServerRecord) -> None:
    url = "http://169.254.169.254/latest/meta-data/instance-id"
    shown = tenant.cloud.inside(f"qvm-{strict_instance.id}", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
    assert shown == "401"


def test_ec2_metadata_of_pypi(tenant: Tenant, strict_instance: ServerRecord, installed: Path) -> None:
    found = probed(tenant, strict_instance, installed, "ec2_metadata_package.py")
    assert found["instance-id"].startswith("i-")
    assert found["ami-id"].startswith("ami-")
    assert found["hostname"].split(".")[0] == strict_instance.name
    assert found["local-ipv4"] == strict_instance.address
    assert found["instance-type"] == strict_instance.flavor
    assert found["zone"] == strict_instance.zone
    assert found["user-data"] == strict_instance.user_data
    assert found["launch-index"] == 0
    assert found["tags"].items() >= {"role": "web"}.items()
    assert (found["iam"], found["spot"]) == (None, None)


def test_ec2metadata_of_debian(tenant: Tenant, strict_instance: ServerRecord) -> None:
    shown = tenant.cloud.inside(f"qvm-{strict_instance.id}", "ec2metadata")
    found = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert found["instance-id"].startswith("i-")
    assert found["local-hostname"].split(".")[0] == strict_instance.name
    assert found["local-ipv4"] == strict_instance.address
    assert found["instance-type"] == strict_instance.flavor
    assert found["availability-zone"] == strict_instance.zone
    assert strict_instance.public_key in found["public-keys"]
    user_data = tenant.cloud.inside(f"qvm-{strict_instance.id}", "ec2metadata", "--user-data")
    assert user_data == strict_instance.user_data


@pytest.mark.parametrize("service", ["openstack", "ec2"])
def test_cloudbase_init(service: str, tenant: Tenant, open_instance: ServerRecord, installed: Path) -> None:
    everything = probed(tenant, open_instance, installed, "cloudbase_init.py")
    found = everything[service]
    assert found["loaded"]
    assert found["hostname"].split(".")[0] == open_instance.name
    assert found["public-keys"] == [open_instance.public_key]
    assert found["user-data"] == open_instance.user_data
    if service == "ec2":
        assert found["instance-id"].startswith("i-")
    else:
        assert found["instance-id"] == open_instance.id
        # The MTU is DHCP's business where there is a DHCP server.
        assert everything["network"] == {"macs": [open_instance.nic.mac_address], "mtus": [None]}


def test_cloudbase_init_posts_a_password(tenant: Tenant, open_instance: ServerRecord, installed: Path) -> None:
    tenant.clear_password(open_instance)  # by the other kind of proxy it has posted one before
    until(lambda: read_password(tenant, open_instance) == "", "the instance reads that none is set")
    password = secrets.token_urlsafe(12)
    posted = probed(tenant, open_instance, installed, "cloudbase_init.py", password)
    assert posted == [True, False, True, True, 409], "it can; none was set; it was taken; one is set; it stays"
    key = load_pem_private_key(tenant.key.read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey)
    encrypted = base64.b64decode(tenant.password(open_instance))
    assert key.decrypt(encrypted, PKCS1v15()).decode() == password, "the owner reads it"


def read_password(tenant: Tenant, server: ServerRecord) -> str:
    url = "http://169.254.169.254/openstack/latest/password"
    return tenant.cloud.inside(f"qvm-{server.id}", "curl", "-sf", url)


def test_os_collect_config(tenant: Tenant, open_instance: ServerRecord, installed: Path) -> None:
    found = probed(tenant, open_instance, installed, "collect_ec2.py")
    assert found["instance-id"].startswith("i-")
    assert found["local-hostname"].split(".")[0] == open_instance.name
    assert found["local-ipv4"] == open_instance.address
    assert found["instance-type"] == open_instance.flavor
    assert found["placement"] == {"availability-zone": open_instance.zone}
    assert found["public-keys"]["0"]["openssh-key"].strip() == open_instance.public_key


@pytest.mark.parametrize("policy", ["open", "strict"])
def test_aws_sdk_of_npm(policy: str, tenant: Tenant, request: pytest.FixtureRequest, installed: Path) -> None:
    server: ServerRecord = request.getfixturevalue(f"{policy}_instance")
    script = (HERE / "probes" / "aws_js.js").read_text()
    argv = ["env", f"NODE_PATH={installed / 'node_modules'}", "node", "--eval", script]
    found = json.loads(tenant.cloud.inside(f"qvm-{server.id}", *argv))
    assert found["endpoint"]["hostname"] == "169.254.169.254"
    assert found["instance-id"].startswith("i-")
    assert found["local-ipv4"] == server.address
    assert "credentials" not in found
    assert found["refused"]["status"] == 404, "no roles here: it goes on to the next provider"
