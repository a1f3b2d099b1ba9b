"""The story of the control API's description, typed as is with python-openstackclient."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.system.cloud import Cloud, run, until

METADATA = "http://169.254.169.254"
LINES = """\
openstack network create test1
openstack subnet create --network test1 --subnet-range 192.168.40.0/24 test1-v4
openstack keypair create --public-key id.pub mykey
openstack server create --image guest --flavor m1.tiny --network test1 --key-name mykey --user-data boot.sh \
--property role=web --wait vm1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "story", "-f", str(folder / "id")])
    (folder / "boot.sh").write_text('#!/bin/sh\necho "user data ran on $(hostname)"\n')
    return folder


@pytest.fixture(scope="module")
def vm1(cloud: Cloud, folder: Path) -> str:
    for line in LINES.splitlines():
        cloud.line(line, cwd=folder)
    return str(cloud.json("openstack server show vm1")["id"])


def test_the_whole_story(cloud: Cloud, folder: Path, vm1: str) -> None:
    network_id = cloud.json("openstack network show test1")["id"]

    # No router, and isolated metadata is off: 20 failed tries.
    until(lambda: "failed 20/20" in cloud.console("vm1"), "the twentieth try", 60)
    assert "user data ran" not in cloud.console("vm1")

    # A router: the default route leads to its proxy.
    cloud.line("openstack router create r1")
    cloud.line("openstack router add subnet r1 test1-v4")
    router_id = cloud.json("openstack router show r1")["id"]
    _reboot_and_see(cloud, folder)
    assert "default via 192.168.40.1 dev eth0" in cloud.inside(f"qvm-{vm1}", "ip", "route")
    redirect = cloud.inside(f"qrouter-{router_id}", "iptables", "-t", "nat", "-L", "PREROUTING", "-v", "-n", "-x")
    counted = [line.split()[0] for line in redirect.splitlines() if "REDIRECT" in line]
    assert counted
    assert int(counted[0]) > 0

    # force_metadata and no router: the DHCP namespace has the address, option 121 tells the way.
    cloud.line("openstack router remove subnet r1 test1-v4")
    cloud.line("openstack router delete r1")
    ini = cloud.state_dir / "etc" / "dhcp_agent.ini"
    ini.write_text(ini.read_text().replace("force_metadata = False", "force_metadata = True"))
    cloud.openimds("restart", "dhcp-agent")
    _reboot_and_see(cloud, folder)
    assert "inet 169.254.169.254/" in cloud.inside(f"qdhcp-{network_id}", "ip", "a")
    assert "169.254.169.254 via 192.168.40." in cloud.inside(f"qvm-{vm1}", "ip", "route")


def test_two_projects_with_the_same_range_and_the_same_address(cloud: Cloud, folder: Path, vm1: str) -> None:
    _see_two_projects(cloud, folder)


def test_one_request_is_followed_by_its_id_from_hop_to_hop(cloud: Cloud, vm1: str) -> None:
    answer = cloud.inside(f"qvm-{vm1}", "curl", "-s", "-i", f"{METADATA}/openstack/latest/meta_data.json")
    headers = dict(line.lower().split(": ", 1) for line in answer.replace("\r", "").splitlines() if ": " in line)
    request_id = headers["x-openstack-request-id"].strip()
    until(
        lambda: all(request_id in cloud.log(name) for name in ("metadata-agent", "metadata-api")),
        "the request id is in both logs",
    )
    hops = [line for line in cloud.log("metadata-agent").splitlines() if request_id in line]
    assert len(hops) >= 2, "HAProxy's line and the agent's"


def _reboot_and_see(cloud: Cloud, folder: Path) -> None:
    cloud.line("openstack server reboot --wait vm1")
    said = until(
        lambda: (text := cloud.console("vm1")) and "user data ran on vm1" in text and text, "the user data has run", 45
    )
    assert (folder / "id.pub").read_text().split()[1] in said or "story" in said


def _see_two_projects(cloud: Cloud, folder: Path) -> None:
    clouds = ["clouds:"]
    auth_url = f"http://127.0.0.1:{cloud.control_port}/v3"
    for project, user in (("acme", "alice"), ("globex", "bob")):
        cloud.line(f"openstack project create {project}")
        cloud.line(f"openstack user create --project {project} --password {user}-pw {user}")
        cloud.line(f"openstack role add --project {project} --user {user} member")
        clouds.append(
            f"  {project}: {{auth: {{auth_url: '{auth_url}', username: {user}, password: {user}-pw, "
            f"project_name: {project}, user_domain_name: Default, project_domain_name: Default}}, "
            "region_name: RegionOne, identity_api_version: 3}"
        )
    (folder / "clouds.yaml").write_text("\n".join(clouds) + "\n")
    cloud.env["OS_CLIENT_CONFIG_FILE"] = str(folder / "clouds.yaml")
    try:
        for project in ("acme", "globex"):
            _tenants_instance(cloud, folder, project)
        for project, other in (("acme", "globex"), ("globex", "acme")):
            said = until(partial(_user_data_ran, cloud, project), f"{project}'s user data has run", 45)
            assert other not in said
        assert "No Server found" in cloud.refused("openstack server show acme-vm", cloud="globex")
    finally:
        del cloud.env["OS_CLIENT_CONFIG_FILE"]


def _tenants_instance(cloud: Cloud, folder: Path, project: str) -> None:
    (folder / f"{project}.sh").write_text(f"#!/bin/sh\necho {project} says $(hostname)\n")
    create = f"openstack server create --image guest --flavor m1.tiny --port p --user-data {project}.sh --wait"
    for line in (
        "openstack network create net",
        "openstack subnet create --network net --subnet-range 192.168.40.0/24 sub",
        "openstack port create --network net --fixed-ip ip-address=192.168.40.50 p",
        f"{create} {project}-vm",
    ):
        cloud.line(line, cwd=folder, cloud=project)


def _user_data_ran(cloud: Cloud, project: str) -> str:
    said = cloud.line(f"openstack console log show {project}-vm", cloud=project)
    return said if f"{project} says {project}-vm" in said else ""
