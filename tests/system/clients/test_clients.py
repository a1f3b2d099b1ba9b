"""Third-party metadata clients in an instance's namespace, in both modes.

The values that a client reads are compared with those of the control API.
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
    """The folder of the clients. They are installed now unless `make test` has installed them."""
    run([str(HERE.parents[2] / "scripts" / "install-test-clients")], timeout_seconds=INSTALL_SECONDS)
    return BUILT


@pytest.fixture(scope="module")
def open_instance(tenant: Tenant) -> ServerRecord:
    """An instance with optional tokens, which is the default."""
    return booted(tenant, "open", {"role": "db"})


@pytest.fixture(scope="module")
def strict_instance(tenant: Tenant) -> ServerRecord:
    """An instance with required tokens for the EC2 tree, and with tags."""
    return booted(tenant, "strict", PROPERTIES)


def booted(tenant: Tenant, name: str, properties: dict[str, str]) -> ServerRecord:
    server = tenant.create(name, "m1.tiny", f"#!/bin/sh\necho canary of {name}\n", properties)
    tenant.wait_active(server)
    tenant.wait_reaching(server)
    return server


def probed(tenant: Tenant, server: ServerRecord, installed: Path, probe: str, *arguments: str) -> Any:
    """Runs a probe in the instance's namespace. Returns the decoded last line of its output."""
    argv = [str(installed / "venv" / "bin" / "python"), str(HERE / "probes" / probe), *arguments]
    return json.loads(tenant.cloud.inside(f"qvm-{server.id}", *argv).splitlines()[-1])


def test_botocore_reads_metadata_with_required_tokens(
    tenant: Tenant, strict_instance: ServerRecord, installed: Path
) -> None:
    found = probed(tenant, strict_instance, installed, "botocore_fetcher.py")
    assert found["has-token"]
    assert found["instance-id"].startswith("i-")
    assert found["local-ipv4"] == strict_instance.address
    assert found["instance-type"] == strict_instance.flavor
    assert found["placement/availability-zone"] == strict_instance.zone
    assert found["region"] == strict_instance.zone[:-1], "botocore takes the zone without its last letter as the region"
    assert found["credentials"] == {}, "404: there are no IAM roles"
    assert not found["session-credentials"]


def test_request_without_a_required_token_is_401(tenant: Tenant, strict_instance: ServerRecord) -> None:
    url = "http://169.254.169.254/latest/meta-data/instance-id"
    shown = tenant.cloud.inside(f"qvm-{strict_instance.id}", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
    assert shown == "401"


def test_ec2_metadata_package_reads_metadata(tenant: Tenant, strict_instance: ServerRecord, installed: Path) -> None:
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


def test_debians_ec2metadata_reads_metadata(tenant: Tenant, strict_instance: ServerRecord) -> None:
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
def test_cloudbase_init_reads_metadata(
    service: str, tenant: Tenant, open_instance: ServerRecord, installed: Path
) -> None:
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
        # With a DHCP server, network_data.json has no MTU: DHCP announces it.
        assert everything["network"] == {"macs": [open_instance.nic.mac_address], "mtus": [None]}


def test_cloudbase_init_posts_a_password(tenant: Tenant, open_instance: ServerRecord, installed: Path) -> None:
    tenant.clear_password(open_instance)  # the test in the other mode has posted one
    until(lambda: read_password(tenant, open_instance) == "", "the instance reads an empty password")
    password = secrets.token_urlsafe(12)
    posted = probed(tenant, open_instance, installed, "cloudbase_init.py", password)
    assert posted == [True, False, True, True, 409], (
        "can post, not set before, accepted, set after, second post refused"
    )
    key = load_pem_private_key(tenant.key.read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey)
    encrypted = base64.b64decode(tenant.password(open_instance))
    assert key.decrypt(encrypted, PKCS1v15()).decode() == password, "the owner reads it"


def read_password(tenant: Tenant, server: ServerRecord) -> str:
    url = "http://169.254.169.254/openstack/latest/password"
    return tenant.cloud.inside(f"qvm-{server.id}", "curl", "-sf", url)


def test_os_collect_config_reads_metadata(tenant: Tenant, open_instance: ServerRecord, installed: Path) -> None:
    found = probed(tenant, open_instance, installed, "collect_ec2.py")
    assert found["instance-id"].startswith("i-")
    assert found["local-hostname"].split(".")[0] == open_instance.name
    assert found["local-ipv4"] == open_instance.address
    assert found["instance-type"] == open_instance.flavor
    assert found["placement"] == {"availability-zone": open_instance.zone}
    assert found["public-keys"]["0"]["openssh-key"].strip() == open_instance.public_key


@pytest.mark.parametrize("policy", ["open", "strict"])
def test_aws_sdk_for_javascript_reads_metadata(
    policy: str, tenant: Tenant, request: pytest.FixtureRequest, installed: Path
) -> None:
    server: ServerRecord = request.getfixturevalue(f"{policy}_instance")
    script = (HERE / "probes" / "aws_js.js").read_text()
    argv = ["env", f"NODE_PATH={installed / 'node_modules'}", "node", "--eval", script]
    found = json.loads(tenant.cloud.inside(f"qvm-{server.id}", *argv))
    assert found["endpoint"]["hostname"] == "169.254.169.254"
    assert found["instance-id"].startswith("i-")
    assert found["local-ipv4"] == server.address
    assert "credentials" not in found
    assert found["refused"]["status"] == 404, "404: there are no IAM roles"
