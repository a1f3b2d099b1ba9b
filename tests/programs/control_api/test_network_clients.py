"""The network service with its real clients: python-openstackclient (a batch in one process) and openstacksdk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import openstack
import pytest
from openstack.connection import Connection
from tests.contract.control.stage import Cloud, Session
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")

OPENSTACK = Path(sys.executable).with_name("openstack")

GOES_WELL = """
network create test1
network set --name test1b --mtu 1400 --tag t1 test1
network unset --tag t1 test1b
network list --long
subnet create --network test1b --subnet-range 192.168.40.0/24 v4
subnet create --network test1b --subnet-range 2001:db8:1::/64 --ip-version 6 --ipv6-ra-mode slaac --ipv6-address-mode slaac v6
subnet set --name v4b --dns-nameserver 1.1.1.1 --host-route destination=10.99.0.0/16,gateway=192.168.40.9 v4
subnet unset --dns-nameserver 1.1.1.1 v4b
subnet list --network test1b --ip-version 4
router create r1
router add subnet r1 v4b
router set --external-gateway public r1
router add route --route destination=10.50.0.0/16,gateway=192.168.40.9 r1
router remove route --route destination=10.50.0.0/16,gateway=192.168.40.9 r1
router show r1
security group create --description x web
security group set --name www web
port create --network test1b --fixed-ip subnet=v4b,ip-address=192.168.40.77 --tag blue --description d p1
port set --name p1b --security-group www p1
port unset --tag blue p1b
port list --router r1
port list --fixed-ip ip-address=192.168.40.77
port set --disable-port-security --no-security-group p1b
port set --enable-port-security --allowed-address ip-address=192.168.40.0/28 --extra-dhcp-option name=bootfile-name,value=pxe p1b
floating ip create --port p1b public
floating ip unset --port 203.0.113.101
floating ip set --port p1b 203.0.113.101
floating ip list --port p1b
floating ip delete 203.0.113.101
router unset --external-gateway r1
router remove subnet r1 v4b
router delete r1
port delete p1b
subnet delete v6
network delete test1b
security group delete www
quota show
availability zone list --network
extension list --network
"""

GOES_WRONG = {
    "subnet create --network nowhere --subnet-range 10.0.0.0/24 s": "No Network found for nowhere",
    "subnet create --network public --subnet-range 10.0.0.0/33 s": "not a valid IP subnet",
    "network create --share mine": "only an administrator",
    "security group rule create --protocol tcp default": "does not enforce rules yet",
    "network trunk list": "not part of what openimds serves",
    "floating ip create --floating-ip-address 203.0.113.150 public": "only an administrator",
}


@pytest.fixture(scope="module")
def member(cloud: Cloud, admin: Session) -> Session:
    """A member of a project, in a cloud with an external network."""
    public = admin.post("/network/v2.0/networks", {"network": {"name": "public", "router:external": True}})["network"]
    pool = {"start": "203.0.113.100", "end": "203.0.113.200"}
    subnet = {
        "network_id": public["id"],
        "cidr": "203.0.113.0/24",
        "enable_dhcp": False,
        "allocation_pools": [pool],
    }
    admin.post("/network/v2.0/subnets", {"subnet": subnet})
    return cloud.member("person")


def openstack_batch(cloud: Cloud, user: str, commands: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cloud.state),
        "COLUMNS": "400",
        "OS_AUTH_URL": f"{cloud.url}/v3",
        "OS_USERNAME": user,
        "OS_PASSWORD": user,
        "OS_PROJECT_NAME": user,
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
    }
    done = subprocess.run(
        [str(OPENSTACK)],
        input=commands,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.stdout


def test_openstack_client_manages_the_resources_of_a_member(cloud: Cloud, member: Session) -> None:
    said = openstack_batch(cloud, "person", GOES_WELL)
    complaints = [
        line
        for line in said.splitlines()
        if not line.startswith(("|", "+")) and ("HTTP" in line or "rror" in line or "ound" in line or "failed" in line)
    ]
    assert complaints == []
    assert "192.168.40.77" in said
    assert "203.0.113.101" in said
    for kind in ("subnets", "ports", "routers", "floatingips"):
        mine = member.get(f"/network/v2.0/{kind}?project_id={member.project_id}")[kind]
        assert mine == [], kind


def test_openstack_client_shows_errors(cloud: Cloud, member: Session) -> None:
    said = openstack_batch(cloud, "person", "\n".join(GOES_WRONG)).splitlines()
    for command, sentence in GOES_WRONG.items():
        assert any(sentence in line for line in said), (command, said)


@pytest.fixture(scope="module")
def sdk(cloud: Cloud, member: Session) -> Connection:
    return openstack.connect(
        auth_url=f"{cloud.url}/v3",
        username="person",
        password="person",
        project_name="person",
        user_domain_id="default",
        project_domain_id="default",
        load_yaml_config=False,
        load_envvars=False,
    )


def test_openstacksdk_manages_network_resources(sdk: Connection) -> None:
    network = sdk.network.create_network(name="n", tags=["a"])
    subnet = sdk.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.0.0.0/24")
    made = [sdk.network.create_port(network_id=network.id, name=f"p{n}") for n in range(5)]
    assert [p.fixed_ips[0]["ip_address"] for p in made] == [f"10.0.0.{n}" for n in range(2, 7)]
    paged = list(sdk.network.ports(limit=2, network_id=network.id, sort_key="name"))
    assert [p.name for p in paged] == [f"p{n}" for n in range(5)]
    assert [p.name for p in sdk.network.ports(fixed_ips=["ip_address=10.0.0.4"])] == ["p2"]
    found = sdk.network.find_port("p3")
    assert found is not None
    assert found.id == made[3].id
    bulk = sdk.network.create_ports([{"network_id": network.id}, {"network_id": network.id}])
    assert len(list(bulk)) == 2
    router = sdk.network.create_router(name="r")
    sdk.network.add_interface_to_router(router, subnet=subnet.id)
    with pytest.raises(openstack.exceptions.ConflictException):
        sdk.network.delete_network(network.id, ignore_missing=False)
    sdk.network.remove_interface_from_router(router, subnet=subnet.id)
    for port in sdk.network.ports(network_id=network.id):
        sdk.network.delete_port(port)
    sdk.network.delete_router(router)
    sdk.network.delete_network(network)
    assert sdk.network.find_network("n") is None
