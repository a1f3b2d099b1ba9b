"""The metadata API reads and writes the same data on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.store.importer.test_importer import IMPORTED, PORT, SECOND_PORT, SERVER, TIMES
from tests.unit.store.importer.test_importer import filled as fill

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import InjectedFile, Instance, NicAddress
from openimds.resources.network import HostRoute
from openimds.store.engine import Store, utc_now
from openimds.store.importer.importer import InstanceStore
from openimds.store.models.base import Change
from openimds.store.models.compute import Server
from openimds.store.models.network import IPAllocation, Network, Port, Subnet
from openimds.store.raw.database import Database
from openimds.store.raw.instance_changes import InstanceChanges
from openimds.store.raw.metadata_store import PortIdentity
from openimds.store.schema_version import is_newest


@pytest.fixture
def instances(store: Store) -> InstanceStore:
    return fill.__wrapped__(store)  # type: ignore[attr-defined,no-any-return]


def _told(instances: InstanceStore, instance_id: str) -> Instance:
    instance = instances.instance(instance_id)
    assert instance is not None
    return instance


def test_record_is_built_from_the_rows(instances: InstanceStore) -> None:
    instance = _told(instances, SERVER)
    assert (instance.user_data, instance.metadata) == (b"\x00\xff", {"role": "web"})
    assert instance.files == (InjectedFile("/etc/motd", b"hi"),)
    assert instance.security_groups == ("default", "web")
    assert (instance.ec2_ids.instance_id, instance.ec2_ids.ami_id) == ("i-00000001", "ami-00000001")
    assert [nic.port_id for nic in instance.nics] == [PORT, SECOND_PORT]
    v6, v4 = instance.nics[0].subnets
    assert (v6.has_dhcp_server, v4.has_dhcp_server, v4.enable_dhcp) == (False, True, True)
    assert v4.addresses == (NicAddress("10.0.0.5", ("203.0.113.7",)),)
    assert v4.host_routes == (HostRoute("192.168.7.0/24", "10.0.0.254"),)


def test_user_data_are_read_unchanged(store: Store, instances: InstanceStore) -> None:
    with store.write() as session:
        session.get_one(Server, SERVER).user_data = b""
    assert _told(instances, SERVER).user_data == b""  # empty user data are not None
    with store.write() as session:
        session.get_one(Server, SERVER).user_data = None
    assert _told(instances, SERVER).user_data is None


def test_special_characters_are_read_unchanged(store: Store, instances: InstanceStore) -> None:
    odd = 'a"\\\n\t\x7f%s :id ü 🦊'
    with store.write() as session:
        session.get_one(Server, SERVER).name = odd
        session.get_one(Server, SERVER).metadata_ = {odd: odd}
    instance = _told(instances, SERVER)
    assert (instance.name, instance.metadata) == (odd, {odd: odd})


def test_many_records_are_read_at_once(instances: InstanceStore) -> None:
    ids = [SERVER, *(f"nobody-{number}" for number in range(200))]
    revision, found = instances.instances(ids)
    assert revision == instances.revision()
    assert [one.id for one in found.values() if one] == [SERVER]
    assert list(found) == ids


def test_address_is_resolved_to_its_port(instances: InstanceStore) -> None:
    instances.import_instances({"instances": [IMPORTED]})
    assert instances.instance_ids_by_address("10.0.0.5") == (SERVER,)
    assert instances.instance_ids_by_address("10.9.9.9") == (IMPORTED["uuid"],)
    assert instances.instance_ids_by_address("10.9.9.%") == ()
    assert instances.ports_by_provider("lb-1", "10.0.0.6") == (PortIdentity(SERVER, "p1"),)
    assert instances.ports_by_provider("lb-2", "10.0.0.6") is None


def test_sync_removes_imported_instances_only(instances: InstanceStore) -> None:
    assert instances.sync_instances({"instances": [IMPORTED]}) == {IMPORTED["uuid"]: "added"}
    assert instances.sync_instances({"instances": [IMPORTED]}) == {IMPORTED["uuid"]: "unchanged"}
    assert instances.sync_instances({"instances": []}, is_forced=True) == {IMPORTED["uuid"]: "removed"}
    assert instances.instance(SERVER) is not None


def _add_network(store: Store, name: str, cidr: str, address: str, instance_id: str, **attributes: Any) -> None:
    """A network `name` with a subnet, and on it a port of the project `name` that the instance has."""
    with store.write() as session:
        session.add(Network(id=name, project_id=name, **attributes, **TIMES))
        session.flush()
        version = 6 if ":" in cidr else 4
        subnet = {"network_id": name, "project_id": name, "allocation_pools": [], **TIMES}
        session.add(Subnet(id=name, ip_version=version, cidr=cidr, **subnet))
        session.flush()
        allocation = IPAllocation(subnet_id=name, ip_address=address, network_id=name)
        attached = {"attached_owner": "compute:nova", "attached_id": instance_id}
        port = {"id": name, "network_id": name, "project_id": name, "mac_address": "fa:16:3e:00:00:77"}
        session.add(Port(**port, fixed_ips=[allocation], **attached, **TIMES))


OPERATORS_NETWORKS: list[dict[str, Any]] = [
    {"shared": True},
    {"external": True},
    {"provider_network_type": "flat", "provider_physical_network": "physnet1"},
]


class TestAddressWithoutProxy:
    @pytest.mark.parametrize("attributes", OPERATORS_NETWORKS)
    @pytest.mark.parametrize("cidr", ["10.0.0.0/16", "10.0.0.4/30"])
    def test_only_ports_on_operators_networks_count(
        self, store: Store, instances: InstanceStore, attributes: dict[str, Any], cidr: str
    ) -> None:
        instances.import_instances({"instances": [_imported_on("10.0.0.5", "elsewhere")]})
        assert instances.instance_ids_by_address("10.0.0.5") == (SERVER, IMPORTED["uuid"])
        _add_network(store, "operator", cidr, "10.0.0.7", "other", **attributes)
        assert instances.instance_ids_by_address("10.0.0.5") == ()
        assert instances.instance_ids_by_address("10.0.0.7") == ("other",)
        instances.import_instances({"instances": [_imported_on("10.0.0.5", "operator")]})
        assert instances.instance_ids_by_address("10.0.0.5") == (IMPORTED["uuid"],)

    @pytest.mark.parametrize("attributes", OPERATORS_NETWORKS)
    def test_address_outside_operators_networks_counts_on_every_network(
        self, store: Store, instances: InstanceStore, attributes: dict[str, Any]
    ) -> None:
        _add_network(store, "operator", "192.0.2.0/24", "192.0.2.9", "other", **attributes)
        _add_network(store, "operator6", "2001:db8:1::/64", "2001:db8:1::9", "other", **attributes)
        assert instances.instance_ids_by_address("10.0.0.5") == (SERVER,)
        assert instances.instance_ids_by_address("2001:db8::5") == (SERVER,)
        assert instances.instance_ids_by_address("2001:db8:1::9") == ("other",)

    def test_network_of_a_member_counts_as_any_other(self, store: Store, instances: InstanceStore) -> None:
        _add_network(store, "member", "10.0.0.0/24", "10.0.0.5", "other")
        assert set(instances.instance_ids_by_address("10.0.0.5")) == {SERVER, "other"}

    def test_port_of_another_project_than_its_instance_does_not_count(
        self, store: Store, instances: InstanceStore
    ) -> None:
        _add_network(store, "forger", "10.5.0.0/24", "10.5.0.5", SERVER)
        assert instances.instance_ids_by_address("10.5.0.5") == ()


def _imported_on(address: str, network_id: str) -> dict[str, Any]:
    return IMPORTED | {"neutron_ports": [{"network_id": network_id, "fixed_ips": [{"ip_address": address}]}]}


def test_stored_password_is_a_change_of_its_server(store: Store, instances: InstanceStore) -> None:
    before = instances.revision()
    assert instances.set_password_once(SERVER, "pw")
    assert not instances.set_password_once(SERVER, "other")
    assert _told(instances, SERVER).password == "pw"
    touched = InstanceChanges(store.database).after(before)
    assert touched.instance_ids == {SERVER}
    assert touched.revision == before + 1
    with store.read() as session:
        assert session.get_one(Server, SERVER).revision_number == before + 1
        (change,) = session.query(Change).filter_by(revision=before + 1)
        assert abs((utc_now() - change.at).total_seconds()) < 3600


def test_schema_version_is_checked(store: Store) -> None:
    assert is_newest(store.database)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    assert not is_newest(store.database)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    assert not is_newest(store.database)


def test_closed_connection_is_replaced(store: Store, instances: InstanceStore) -> None:
    revision = instances.revision()
    for connection in store.database._idle:
        connection.close()
    if store.is_sqlite:
        store.database._idle.clear()
    assert instances.revision() == revision


@pytest.mark.parametrize("url", ["mysql://u:pw@h/d", "sqlite://", "sqlite:////f?mode=ro", "postgresql://u:pw@h:x/d"])
def test_unsupported_database_is_reported(url: str) -> None:
    with pytest.raises(StoreUnavailable) as wrong:
        Database(url)
    assert "cannot be used" in wrong.value.message
    assert "pw" not in wrong.value.message
