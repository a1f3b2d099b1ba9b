"""Debian's cloud-init in Debian guests, in both modes.

The configuration of the guest is compared with the values of the control API.
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
"""Data source → words of the kernel command line. cloud-init detects OpenStack by the machine's DMI."""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("suite", SUITES)
def test_cloud_init_configures_the_guest(
    suite: str, source: str, metadata_proxy: str, tenant: Tenant, tmp_path: Path
) -> None:
    root = debian_root(suite)
    name, canary = f"{suite}-{source.lower()}-{metadata_proxy}", secrets.token_hex(8)
    server = tenant.create(name, EXTERNAL, user_data(canary))
    with debian_guest(root, tmp_path / "console", *SOURCES[source]) as guest:
        guest.plug(server.nic)
        tenant.wait_active(server)  # ACTIVE: the compute agent has attached the tap to its bridge
        guest.power_on()
        result = guest.result()
        assert result["errors"] == [], guest.diagnostics()
        assert result["datasource"].startswith(f"DataSource{source}"), guest.diagnostics()
        assert guest.inside("cloud-init", "--version").stdout.split()[-1].startswith(SUITES[suite])
        _assert_metadata_is_complete(guest, source, server)
        _assert_user_data_and_key_are_applied(guest, server, canary)
        _assert_owner_logs_in(tenant, server, canary)


def user_data(canary: str) -> str:
    return (
        "#cloud-config\n"
        "write_files:\n"
        f"  - {{path: /etc/canary, content: {canary}}}\n"
        "runcmd:\n"
        '  - "hostname > /root/ran-on"\n'
    )


def _assert_metadata_is_complete(guest: DebianGuest, source: str, server: ServerRecord) -> None:
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


def _assert_user_data_and_key_are_applied(guest: DebianGuest, server: ServerRecord, canary: str) -> None:
    assert guest.inside("hostname").stdout.split(".")[0].strip() == server.name
    assert guest.read("/etc/canary") == canary
    assert guest.read("/root/ran-on").split(".")[0].strip() == server.name
    assert server.public_key in guest.read("/home/debian/.ssh/authorized_keys")
    devices = json.loads(guest.inside("ip", "-json", "-4", "address", "show", "dev", "eth0").stdout)
    assert [address["local"] for address in devices[0]["addr_info"]] == [server.address]


def _assert_owner_logs_in(tenant: Tenant, server: ServerRecord, canary: str) -> None:
    """The owner logs in by SSH from the network's DHCP namespace."""
    command = ssh(tenant.key, server.address, "hostname; sudo cat /etc/canary")
    words = tenant.cloud.inside(f"qdhcp-{tenant.network.id}", *command).split()
    assert [words[0].split(".")[0], *words[1:]] == [server.name, canary]


def _keys(shown: Any) -> list[str]:
    return [str(key).strip() for key in shown]
