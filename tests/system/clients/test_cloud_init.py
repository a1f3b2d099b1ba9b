"""cloud-init as Debian ships it, in whole guests, by HAProxy and without: what it made of the machine, beside what the
control API knows.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from tests.system.clients.debian_guest import DebianGuest, debian_guest, debian_root, ssh
from tests.system.clients.tenant import EXTERNAL, ServerRecord, Tenant

SUITES = {"bookworm": "22.4", "trixie": "25.1"}
SOURCES = {"OpenStack": (), "Ec2": ("ci.ds=Ec2",)}
"""The data source → what the guest's kernel command line has to say. OpenStack is found by the machine's DMI."""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("suite", SUITES)
def test_cloud_init_sets_the_machine_up(
    suite: str, source: str, metadata_proxy: str, tenant: Tenant, tmp_path: Path
) -> None:
    root = debian_root(suite)
    name, canary = f"{suite}-{source.lower()}-{metadata_proxy}", secrets.token_hex(8)
    server = tenant.create(name, EXTERNAL, user_data(canary))
    with debian_guest(root, tmp_path / "console", *SOURCES[source]) as guest:
        guest.plug(server.nic)
        tenant.wait_active(server)  # the compute agent has put the tap on its bridge
        guest.power_on()
        result = guest.result()
        assert result["errors"] == [], guest.story()
        assert result["datasource"].startswith(f"DataSource{source}"), guest.story()
        assert guest.inside("cloud-init", "--version").stdout.split()[-1].startswith(SUITES[suite])
        _it_learnt_what_the_control_api_knows(guest, source, server)
        _it_did_what_the_owner_asked_for(guest, server, canary)
        _the_owner_gets_in(tenant, server, canary)


def user_data(canary: str) -> str:
    return (
        "#cloud-config\n"
        "write_files:\n"
        f"  - {{path: /etc/canary, content: {canary}}}\n"
        "runcmd:\n"
        '  - "hostname > /root/ran-on"\n'
    )


def _it_learnt_what_the_control_api_knows(guest: DebianGuest, source: str, server: ServerRecord) -> None:
    found = json.loads(guest.read("/run/cloud-init/instance-data-sensitive.json"))
    v1, crawled = found["v1"], found["ds"]
    assert v1["availability_zone"] == server.zone
    assert v1["local_hostname"].split(".")[0] == server.name
    assert _keys(v1["public_ssh_keys"]) == [server.public_key]
    ec2 = crawled["ec2_metadata" if source == "OpenStack" else "meta-data"]
    assert ec2["local-ipv4"] == server.address
    assert ec2["instance-type"] == server.flavor
    assert ec2["instance-id"].startswith("i-")
    assert v1["instance_id"] == (server.id if source == "OpenStack" else ec2["instance-id"])
    if source == "OpenStack":
        assert v1["platform"] == "openstack"
        assert crawled["meta_data"]["uuid"] == server.id
        assert [link["ethernet_mac_address"] for link in crawled["network_json"]["links"]] == [server.nic.mac_address]


def _it_did_what_the_owner_asked_for(guest: DebianGuest, server: ServerRecord, canary: str) -> None:
    assert guest.inside("hostname").stdout.split(".")[0].strip() == server.name
    assert guest.read("/etc/canary") == canary
    assert guest.read("/root/ran-on").split(".")[0].strip() == server.name
    assert server.public_key in guest.read("/home/debian/.ssh/authorized_keys")
    devices = json.loads(guest.inside("ip", "-json", "-4", "address", "show", "dev", "eth0").stdout)
    assert [address["local"] for address in devices[0]["addr_info"]] == [server.address]


def _the_owner_gets_in(tenant: Tenant, server: ServerRecord, canary: str) -> None:
    """From another machine of the network, where its DHCP server is."""
    command = ssh(tenant.key, server.address, "hostname; sudo cat /etc/canary")
    said = tenant.cloud.inside(f"qdhcp-{tenant.network.id}", *command).split()
    assert [said[0].split(".")[0], *said[1:]] == [server.name, canary]


def _keys(shown: Any) -> list[str]:
    return [str(key).strip() for key in shown]
