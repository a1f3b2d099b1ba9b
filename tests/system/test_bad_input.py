"""Invalid input in the openstack client and in raw requests: the status is right and the message names the field."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS

NO_IMAGE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def made(cloud: Cloud) -> Cloud:
    for line in (
        "openstack network create n",
        "openstack subnet create --network n --subnet-range 10.1.0.0/24 s1",
        "openstack network create m",
        "openstack subnet create --network m --subnet-range 10.1.0.0/25 s2",
        "openstack network create small",
        "openstack subnet create --network small --no-dhcp --subnet-range 10.2.0.0/30 s3",
        "openstack security group create group",
        "openstack router create r",
        "openstack router add subnet r s1",
        "openstack port create --network small last",
    ):
        cloud.line(line)
    return cloud


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("router add subnet r s2", ["409", "overlap"], id="overlap on one router"),
        pytest.param("port create --network small more", ["409", "No more IP addresses"], id="exhausted pool"),
        pytest.param("network delete n", ["409"], id="delete in use: network"),
        pytest.param("subnet delete s1", ["409"], id="delete in use: subnet"),
        pytest.param("router delete r", ["409"], id="delete in use: router"),
        pytest.param("subnet create --network n --subnet-range 10.300.0.0/24 x", ["400", "cidr"], id="malformed CIDR"),
        pytest.param("port create --network n --mac-address zz:zz x", ["400", "mac_address"], id="malformed MAC"),
        pytest.param(
            "port create --network n --fixed-ip ip-address=10.1.0.999 x", ["400", "ip_address"], id="malformed IP"
        ),
        pytest.param("volume list", ["service catalog"], id="no such service"),
        pytest.param("security group rule create group", ["501"], id="unsupported: rules"),
        pytest.param("server create --image guest --flavor m1.tiny --network n --key-name none x", ["400", "key"],
                     id="unknown key"),
        pytest.param("server create --image guest --flavor m1.tiny --network n --user-data big x",
                     ["400", "user_data"], id="too large user data"),
    ],
)  # fmt: skip
def test_invalid_command_line_fails_with_the_name_of_the_field(
    made: Cloud, tmp_path: Path, line: str, expected: list[str]
) -> None:
    (tmp_path / "big").write_bytes(b"#" * 65_536)
    message = made.refused(f"openstack {line}", cwd=tmp_path)
    assert all(word.lower() in message.lower() for word in expected), message


def test_wrong_password_is_401(made: Cloud) -> None:
    assert "401" in made.refused("openstack --os-password wrong token issue")


def test_resource_of_another_project_is_404(made: Cloud) -> None:
    made.line("openstack project create other")
    made.line("openstack user create --project other --password pw mallory")
    made.line("openstack role add --project other --user mallory member")
    network = made.line("openstack network show n -f value -c id").strip()
    as_mallory = "openstack --os-username mallory --os-password pw --os-project-name other"
    assert "No Network found" in made.refused(f"{as_mallory} network show {network}")
    assert made.line(f"{as_mallory} network list -f value") == ""
    assert "No Network found" in made.refused(f"{as_mallory} network delete {network}")


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/network/v2.0/networks", b"{not json", 400, "JSON"),
        ("/compute/v2.1/servers", b"{not json", 400, "JSON"),
        (
            "/compute/v2.1/servers",
            {"server": {"name": "x", "flavorRef": "2", "imageRef": "not-a-uuid", "networks": "none"}},
            400,
            "imageRef",
        ),
        (
            "/compute/v2.1/servers",
            {"server": {"name": "x", "flavorRef": "2", "imageRef": NO_IMAGE, "user_data": "%%%", "networks": "none"}},
            400,
            "user_data",
        ),
        ("/network/v2.0/ports", {"port": {"network_id": "not-a-uuid"}}, 400, "network_id"),
        ("/network/v2.0/vpnaas", {}, 404, ""),
        ("/compute/v2.1/os-volumes", {}, 501, "no block storage"),
    ],
)
def test_invalid_raw_request_is_refused_with_the_name_of_the_field(
    made: Cloud, path: str, body: object, status: int, field: str
) -> None:
    token = made.line("openstack token issue -f value -c id").strip()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer, text = post(made, path, data, token)
    assert (answer, field in text) == (status, True), text


def test_missing_or_forged_token_is_401(made: Cloud) -> None:
    assert post(made, "/network/v2.0/networks", b"{}", "")[0] == 401
    forged = base64.urlsafe_b64encode(b"\x80" + b"0" * 80).decode()
    assert post(made, "/network/v2.0/networks", b"{}", forged)[0] == 401


def post(cloud: Cloud, path: str, data: bytes, token: str) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{cloud.control_port}{path}",
        data,
        {"Content-Type": "application/json", "OpenStack-API-Version": "compute 2.90"}
        | ({"X-Auth-Token": token} if token else {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
