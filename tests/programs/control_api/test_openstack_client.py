"""The `openstack` client and the SDK with the control API."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.contract.control.stage import ADMIN_PASSWORD, Cloud, ComputeAgent
from tests.openstack_client import run_openstack

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3Jx4s4KpkVRTAB0mZ5UuO1nH3sMYXwQyZ9mXW3kUPv me\n"


class Client:
    """Runs `openstack …` in a folder with the files that the commands use."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.folder = folder
        self._cloud = cloud

    def run(self, line: str, **who: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        environment |= {
            "OS_AUTH_URL": f"{self._cloud.url}/v3",
            "OS_USERNAME": who.get("user", "admin"),
            "OS_PASSWORD": who.get("password", ADMIN_PASSWORD),
            "OS_PROJECT_NAME": who.get("project", "admin"),
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "PYTHONWARNINGS": "ignore",
        }
        return run_openstack(shlex.split(line), environment, self.folder)

    def __call__(self, line: str, **who: str) -> str:
        """Runs a command that must succeed. Returns its output."""
        done = self.run(line, **who)
        assert done.returncode == 0, f"openstack {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, line: str, **who: str) -> Any:
        return json.loads(self(f"{line} -f json", **who))

    def fails(self, line: str, **who: str) -> str:
        done = self.run(line, **who)
        assert done.returncode != 0, f"openstack {line}\n{done.stdout}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def openstack(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("client")
    (folder / "id.pub").write_text(PUBLIC_KEY)
    (folder / "boot.sh").write_text("#!/bin/sh\necho hello\n")
    (folder / "disk.raw").write_bytes(b"disk" * 1000)
    return Client(cloud, folder)


def test_openstack_client_boots_a_server(openstack: Client, agent: ComputeAgent) -> None:
    openstack("network create test1")
    openstack("subnet create --network test1 --subnet-range 192.168.40.0/24 test1-v4")
    openstack("keypair create --public-key id.pub mykey")
    with agent.at_work():
        openstack(
            "server create --image guest --flavor m1.tiny --network test1 --key-name mykey "
            "--user-data boot.sh --property role=web --wait vm1"
        )
        assert "boot 1" in openstack("console log show vm1")
        openstack("router create r1")
        openstack("router add subnet r1 test1-v4")
        openstack("server reboot --wait vm1")
        shown = openstack.json("server show vm1")
        assert (shown["status"], shown["key_name"], shown["properties"]) == ("ACTIVE", "mykey", {"role": "web"})
        assert base64.b64decode(shown["OS-EXT-SRV-ATTR:user_data"]) == b"#!/bin/sh\necho hello\n"
        assert shown["addresses"]["test1"][0].startswith("192.168.40.")
        assert openstack("console log show --lines 1 vm1").strip() == "login:"
        assert openstack.json("server list")[0]["Name"] == "vm1"
        assert openstack.json("port list --server vm1")[0]["Status"]
        openstack("server set --property a=b --name vm1b vm1")
        openstack("server unset --property role vm1b")
        openstack("server stop vm1b")
        openstack("server start vm1b")
        openstack("server add network vm1b test1")
        openstack("server rebuild --wait --image guest vm1b")
        openstack("server delete --wait vm1b")
    assert openstack.json("server list") == []


def test_openstack_client_creates_a_project_and_user(openstack: Client) -> None:
    openstack("project create two")
    openstack("user create --project two --password pw2 second")
    openstack("role add --user second --project two member")
    assert openstack.json("role assignment list --names --user second")[0]["Project"] == "two@Default"
    who = {"user": "second", "password": "pw2", "project": "two"}
    assert openstack.json("token issue", **who)["project_id"]
    assert openstack.json("project list", **who)[0]["Name"] == "two"
    assert openstack.json("network list", **who) == []
    openstack("user password set --original-password pw2 --password pw3", **who)
    assert "401" in openstack.fails("token issue", **who)
    assert "403" in openstack.fails("user list", user="second", password="pw3", project="two")


def test_openstack_client_lists_images_and_flavors(openstack: Client) -> None:
    made = openstack.json("image create --file disk.raw --disk-format raw --container-format bare --property a=b mine")
    assert (made["status"], made["size"]) == ("active", 4000)
    openstack("image set --name ours --tag t mine")
    openstack("image save --file back.raw ours")
    assert (openstack.folder / "back.raw").read_bytes() == b"disk" * 1000
    openstack("image delete ours")
    openstack("flavor create --ram 256 --vcpus 1 --disk 0 --property a=b m1.micro")
    assert openstack.json("flavor show m1.micro")["properties"] == {"a": "b"}
    openstack("keypair create --private-key new.key generated")
    assert "PRIVATE KEY" in (openstack.folder / "new.key").read_text()
    assert {item["Name"] for item in openstack.json("keypair list")} >= {"generated"}
    for line in (
        "availability zone list", "hypervisor list", "compute service list", "catalog list", "endpoint list",
        "region list", "limits show --absolute", "quota show", "extension list --network", "versions show",
    ):  # fmt: skip
        openstack(line)


def test_openstack_client_shows_errors(openstack: Client) -> None:
    assert "No Server found for nothing" in openstack.fails("server show nothing")
    assert "block storage" in openstack.fails(
        "server create --flavor m1.tiny --image guest --boot-from-volume 1 --nic none v"
    )
    assert "not supported" in openstack.fails("server group create g")
