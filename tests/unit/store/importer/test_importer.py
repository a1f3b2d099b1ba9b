"""Instances as the metadata API reads them: from rows that the control API writes, and from documents."""

from __future__ import annotations

import base64
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from openimds.resources.errors import BadRequest, Conflict, NotFound
from openimds.resources.instance import InjectedFile, InstanceKey, NicAddress, TaggedDevice
from openimds.resources.network import HostRoute
from openimds.store.engine import Store, changes_after
from openimds.store.importer.importer import InstanceStore
from openimds.store.models.compute import Server
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, SecurityGroup, Subnet
from openimds.store.raw.metadata_store import PortIdentity

NOW = datetime(2026, 11, 21)  # noqa: DTZ001 - as the tables hold it
SERVER = "d8e02d56-2648-49a3-bf97-6be8f1204f38"
NET = "2a9a3b1e-6b8e-4b8f-9d53-3c1c0a5c7e11"
PORT = "ce531f90-199f-48c0-816c-13e38010b442"
SECOND_PORT = "0e531f90-199f-48c0-816c-13e38010b443"
V4, V6 = "v4", "v6"
TIMES = {"created_at": NOW, "updated_at": NOW}


def port(port_id: str, mac: str, *addresses: tuple[str, str], **more: Any) -> Port:
    fields = {"attached_id": SERVER, "attached_owner": "compute:nova", "security_group_ids": ["sg1"]} | more
    return Port(
        id=port_id,
        network_id=NET,
        project_id="p1",
        mac_address=mac,
        fixed_ips=[
            IPAllocation(subnet_id=subnet, ip_address=address, network_id=NET, position=place)
            for place, (subnet, address) in enumerate(addresses)
        ],
        **fields,
        **TIMES,
    )


def server(**more: Any) -> Server:
    fields = {
        "user_id": "u1",
        "name": "VM 1",
        "hostname": "vm-1",
        "flavor": {"name": "m1.tiny"},
        "image_id": "155d900f-4e14-4e4c-a73d-069cbf4541e6",
        "nic_order": [PORT, SECOND_PORT],
    }
    return Server(id=SERVER, project_id="p1", **(fields | more), **TIMES)


@pytest.fixture
def filled(store: Store) -> InstanceStore:
    with store.write() as session:
        session.add(Network(id=NET, project_id="p1", mtu=1450, name="private", **TIMES))
        session.add(SecurityGroup(id="sg1", project_id="p1", name="default", **TIMES))
        session.add(SecurityGroup(id="sg2", project_id="p1", name="web", **TIMES))
        session.flush()
        session.add(
            Subnet(
                id=V4,
                network_id=NET,
                project_id="p1",
                ip_version=4,
                cidr="10.0.0.0/24",
                gateway_ip="10.0.0.1",
                allocation_pools=[],
                dns_nameservers=["8.8.8.8"],
                host_routes=[{"destination": "192.168.7.0/24", "nexthop": "10.0.0.254"}],
                tags=["metadata-provider=lb-1"],
                **TIMES,
            )
        )
        session.add(
            Subnet(
                id=V6,
                network_id=NET,
                project_id="p1",
                ip_version=6,
                cidr="2001:db8::/64",
                allocation_pools=[],
                ipv6_address_mode="slaac",
                **TIMES,
            )
        )
        session.flush()
        session.add(port(SECOND_PORT, "fa:16:3e:00:00:02", (V4, "10.0.0.6"), security_group_ids=["sg2", "sg1", "gone"]))
        session.add(port(PORT, "fa:16:3e:00:00:01", (V6, "2001:db8::5"), (V4, "10.0.0.5")))
        session.add(
            port("dhcp", "fa:16:3e:00:00:09", (V4, "10.0.0.2"), attached_owner="network:dhcp", attached_id="dhcp")
        )
        session.flush()
        session.add(
            FloatingIP(
                id="f1",
                project_id="p1",
                floating_network_id=NET,
                floating_ip_address="203.0.113.7",
                floating_port_id="x",
                port_id=PORT,
                fixed_ip_address="10.0.0.5",
                **TIMES,
            )
        )
        session.add(
            server(
                key_name="k",
                key_type="ssh",
                public_key="ssh-rsa A",
                user_data=b"\x00\xff",
                metadata_={"role": "web"},
                personality=[{"path": "/etc/motd", "contents": base64.b64encode(b"hi").decode()}],
                nic_tags={SECOND_PORT: "mgmt"},
                availability_zone="nova",
            )
        )
    return InstanceStore(store)


def test_instance_has_the_values_of_its_rows(filled: InstanceStore) -> None:
    instance = filled.instance(SERVER)
    assert instance is not None
    assert (instance.name, instance.hostname, instance.flavor_name) == ("VM 1", "vm-1", "m1.tiny")
    assert instance.key == InstanceKey("k", "ssh", "ssh-rsa A")
    assert instance.user_data == b"\x00\xff"
    assert instance.metadata == {"role": "web"}
    assert instance.files == (InjectedFile("/etc/motd", b"hi"),)
    assert instance.security_groups == ("default", "web")
    assert instance.devices == (TaggedDevice(type="nic", mac_address="fa:16:3e:00:00:02", tags=("mgmt",)),)


def test_nics_have_their_order_networks_and_subnets(filled: InstanceStore) -> None:
    instance = filled.instance(SERVER)
    assert instance is not None
    first, second = instance.nics
    assert (first.port_id, first.device_name, first.mtu, first.vif_type) == (PORT, "tapce531f90-19", 1450, "bridge")
    assert second.port_id == SECOND_PORT
    v6, v4 = first.subnets
    assert (v6.ipv6_address_mode, v6.has_dhcp_server) == ("slaac", False)
    assert v4.addresses == (NicAddress("10.0.0.5", ("203.0.113.7",)),)
    assert v4.host_routes == (HostRoute("192.168.7.0/24", "10.0.0.254"),)
    assert v4.has_dhcp_server


def test_ec2_ids_are_assigned_once(filled: InstanceStore, store: Store) -> None:
    first = filled.instance(SERVER)
    assert first is not None
    assert (first.ec2_ids.instance_id, first.ec2_ids.ami_id) == ("i-00000001", "ami-00000001")
    assert (first.ec2_ids.kernel_id, first.ec2_ids.ramdisk_id) == (None, None)
    with store.write() as session:
        other = server(nic_order=[], image_id=None, kernel_id="k", ramdisk_id="r")
        other.id = "11111111-2222-4333-8444-555555555501"
        session.add(other)
    second = filled.instance(other.id)
    assert second is not None
    assert second.ec2_ids.instance_id == "i-00000002"
    assert (second.ec2_ids.ami_id, second.ec2_ids.kernel_id, second.ec2_ids.ramdisk_id) == (
        None,
        "aki-00000002",
        "ari-00000003",
    )
    assert filled.instance(SERVER) == first


def test_unknown_instance_is_none(filled: InstanceStore) -> None:
    assert filled.instance(SERVER.upper()) is None
    assert filled.instance("") is None


def test_instances_are_found_by_address(filled: InstanceStore) -> None:
    assert filled.instance_ids_by_address("10.0.0.5") == (SERVER,)
    assert filled.instance_ids_by_address("10.0.0.2") == ()
    assert filled.instance_ids_by_address("10.0.0.77") == ()


def test_ports_are_found_by_provider(filled: InstanceStore) -> None:
    assert filled.ports_by_provider("lb-1", "10.0.0.6") == (PortIdentity(SERVER, "p1"),)
    assert filled.ports_by_provider("lb-1", "10.0.0.77") == ()
    assert filled.ports_by_provider("lb-2", "10.0.0.6") is None


def test_first_of_concurrent_passwords_is_stored(filled: InstanceStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda number: filled.set_password_once(SERVER, f"pw{number}"), range(16)))
    assert outcomes.count(True) == 1
    instance = filled.instance(SERVER)
    assert instance is not None
    assert instance.password == f"pw{outcomes.index(True)}"


def test_empty_password_is_not_stored(filled: InstanceStore) -> None:
    assert filled.set_password_once(SERVER, "")
    assert filled.set_password_once(SERVER, "pw")
    with pytest.raises(NotFound):
        filled.set_password_once("nobody", "pw")


def test_every_change_is_a_new_revision(filled: InstanceStore) -> None:
    before = filled.revision()
    filled.set_password_once(SERVER, "pw")
    assert filled.revision() > before


IMPORTED: dict[str, Any] = {
    "uuid": "11111111-2222-4333-8444-555555555509",
    "project_id": "p9",
    "hostname": "far",
    "ec2_ids": {"instance_id": "i-0000002a", "ami_id": None, "kernel_id": None, "ramdisk_id": None},
    "network_info": [
        {
            "id": PORT,
            "address": "fa:16:3e:00:00:01",
            "type": "ovs",
            "devname": "tap1",
            "network": {
                "id": NET,
                "meta": {"mtu": 9000, "injected": True},
                "subnets": [
                    {
                        "cidr": "10.9.0.0/16",
                        "gateway": {"address": "10.9.0.1"},
                        "ips": [{"address": "10.9.9.9", "floating_ips": [{"address": "203.0.113.9"}]}],
                        "dns": [{"address": "8.8.8.8"}],
                        "routes": [{"cidr": "10.8.0.0/16", "gateway": {"address": "10.9.0.2"}}],
                        "meta": {"dhcp_server": "10.9.0.3", "enable_dhcp": True},
                    }
                ],
            },
        },
        {"id": "second", "network": None},
    ],
    "neutron_ports": [{"network_id": NET, "fixed_ips": [{"ip_address": "10.9.9.9", "subnet_id": "s"}]}],
    "user_data_b64": "AP8=",
    "system_metadata": {"password_0": "pw", "password_1": "2", "boot_roles": "member,reader"},
}


def test_document_is_imported(store: Store) -> None:
    instances = InstanceStore(store)
    assert instances.import_instances({"instances": [IMPORTED]}) == (IMPORTED["uuid"],)
    instance = instances.instance(IMPORTED["uuid"])
    assert instance is not None
    assert (instance.name, instance.hostname, instance.ec2_ids.instance_id) == ("far", "far", "i-0000002a")
    assert (instance.user_data, instance.password, instance.boot_roles) == (b"\x00\xff", "pw2", "member,reader")
    first, second = instance.nics
    assert (first.mtu, first.injected, first.subnets[0].ip_version) == (9000, True, 4)
    assert first.subnets[0].has_dhcp_server
    assert second.subnets == ()
    assert instances.instance_ids_by_address("10.9.9.9") == (IMPORTED["uuid"],)


def test_second_import_replaces_the_instance(store: Store) -> None:
    instances = InstanceStore(store)
    instances.import_instances({"instances": [IMPORTED]})
    instances.import_instances({"instances": [IMPORTED | {"hostname": "near", "system_metadata": {}}]})
    instance = instances.instance(IMPORTED["uuid"])
    assert instance is not None
    assert (instance.hostname, instance.password) == ("near", None)


SECOND = {"uuid": "5d8d0a0e-0000-4000-8000-000000000002", "project_id": "p1", "hostname": "second"}
THIRD = {"uuid": "5d8d0a0e-0000-4000-8000-000000000003", "project_id": "p1", "hostname": "third"}


def synced(store: Store, *instances: dict[str, Any], is_forced: bool = False, dry_run: bool = False) -> dict[str, int]:
    outcomes = InstanceStore(store).sync_instances({"instances": list(instances)}, is_forced=is_forced, dry_run=dry_run)
    return dict(Counter(outcomes.values()))


def test_sync_reports_what_it_did_and_leaves_unchanged_instances_alone(store: Store) -> None:
    assert synced(store, IMPORTED, SECOND, THIRD) == {"added": 3}
    before = store.revision()
    assert synced(store, IMPORTED, SECOND, THIRD) == {"unchanged": 3}
    assert store.revision() == before, "agents fetch nothing again"
    assert synced(store, IMPORTED, SECOND | {"hostname": "other"}) == {"changed": 1, "unchanged": 1, "removed": 1}
    with store.read() as session:
        changed = {entry.object_id for entry in changes_after(session, before, ("server",))}
    assert changed == {SECOND["uuid"], THIRD["uuid"]}
    instances = InstanceStore(store)
    assert instances.instance(THIRD["uuid"]) is None
    second = instances.instance(SECOND["uuid"])
    assert second is not None
    assert second.hostname == "other"


def test_sync_removes_only_imported_instances(store: Store, filled: InstanceStore) -> None:
    assert synced(store, IMPORTED) == {"added": 1}
    assert synced(store, is_forced=True) == {"removed": 1}
    assert filled.instance(SERVER) is not None


def test_sync_that_would_remove_more_than_half_changes_nothing(store: Store) -> None:
    synced(store, IMPORTED, SECOND, THIRD)
    before = store.revision()
    new = SECOND | {"uuid": "5d8d0a0e-0000-4000-8000-000000000004"}
    for dry_run in (True, False):
        with pytest.raises(Conflict, match=r"does not contain 2 of the 3 instances of earlier imports.*--force"):
            synced(store, IMPORTED | {"hostname": "changed"}, new, dry_run=dry_run)
    assert store.revision() == before
    assert synced(store, IMPORTED, new, is_forced=True, dry_run=True) == {"added": 1, "unchanged": 1, "removed": 2}
    assert store.revision() == before
    assert synced(store, IMPORTED, new, is_forced=True) == {"added": 1, "unchanged": 1, "removed": 2}


def test_sync_keeps_the_password_that_a_guest_posted(store: Store) -> None:
    instances = InstanceStore(store)
    synced(store, SECOND)
    assert instances.set_password_once(SECOND["uuid"], "posted")
    assert synced(store, SECOND) == {"unchanged": 1}
    found = instances.instance(SECOND["uuid"])
    assert found is not None
    assert found.password == "posted"
    assert synced(store, SECOND | {"system_metadata": {"password_0": "novas"}}) == {"changed": 1}


def test_launch_time_stays_unless_the_document_has_another(store: Store) -> None:
    """Each import restarted imds:UserDataMinutes, because the launch time was the time of the import."""
    launched = SECOND | {"launched_at": "2026-05-01T12:00:00+02:00"}
    instances = InstanceStore(store)
    times = []
    for document in (SECOND, SECOND | {"hostname": "x"}, launched, SECOND):
        instances.import_instances({"instances": [document]})
        found = instances.instance(SECOND["uuid"])
        assert found is not None
        times.append(found.launched_at)
    assert times[0] == times[1]
    assert times[2:] == [datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()] * 2
    with pytest.raises(BadRequest, match=r"launched_at: .* is not a time like"):
        instances.import_instances({"instances": [SECOND | {"launched_at": "yesterday"}]})


def test_imported_ec2_numbers_are_reserved(filled: InstanceStore) -> None:
    filled.import_instances(
        {"instances": [IMPORTED | {"ec2_ids": {"instance_id": "i-00000001", "ami_id": None}}]},
    )
    instance = filled.instance(SERVER)
    assert instance is not None
    assert instance.ec2_ids.instance_id == "i-00000002"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"uuid": "x"}, "instances[0].uuid"),
        ({"uuid": None}, "instances[0].uuid"),
        ({"hostname": 7}, "instances[0].hostname"),
        ({"user_data_b64": "%"}, "instances[0].user_data_b64"),
        ({"metadata": {"a": 1}}, "instances[0].metadata"),
        ({"launch_index": "1"}, "instances[0].launch_index"),
        ({"security_groups": {}}, "instances[0].security_groups"),
        ({"security_groups": [7]}, "instances[0].security_groups[0]"),
        ({"ec2_ids": []}, "instances[0].ec2_ids"),
        ({"network_info": [{"network": {}}]}, "instances[0].network_info"),
        ({"device_metadata": {"nova_object.data": {"devices": [7]}}}, "instances[0].device_metadata"),
        (
            {"neutron_ports": [{"network_id": NET, "fixed_ips": [{}]}]},
            "instances[0].neutron_ports[0].fixed_ips[0].ip_address",
        ),
    ],
)
def test_wrong_field_is_named_and_nothing_is_imported(store: Store, changes: dict[str, Any], field: str) -> None:
    instances = InstanceStore(store)
    good = IMPORTED | {"uuid": SERVER}
    with pytest.raises(BadRequest) as wrong:
        instances.import_instances({"instances": [IMPORTED | changes, good]})
    assert wrong.value.field == field
    with pytest.raises(BadRequest):
        instances.import_instances({"instances": [good, IMPORTED | {"uuid": "x"}]})
    assert instances.instance(SERVER) is None


def test_document_without_instances_is_refused(store: Store) -> None:
    with pytest.raises(BadRequest, match="a list `instances`"):
        InstanceStore(store).import_instances({})


@pytest.mark.parametrize("attached", [{}, {"attached_id": "r1", "attached_owner": "network:router_interface"}])
def test_port_with_a_claimed_server_is_in_no_document(
    store: Store, filled: InstanceStore, attached: dict[str, str]
) -> None:
    """The row has another project's server in the attributes that tenants can write."""
    before = filled.instance(SERVER)
    claim = {"device_id": SERVER, "device_owner": "compute:nova", "attached_id": "", "attached_owner": ""} | attached
    forged = port("forged", "fa:16:3e:00:00:0f", (V4, "10.0.0.66"), security_group_ids=["sg2"], **claim)
    forged.project_id = "p2"
    with store.write() as session:
        session.add(forged)
    assert filled.instance(SERVER) == before
    assert filled.instance_ids_by_address("10.0.0.66") == ()
    assert filled.ports_by_provider("lb-1", "10.0.0.66") == ()
