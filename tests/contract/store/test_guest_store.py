"""What the metadata API reads and writes is the same on both databases."""

from __future__ import annotations

import pytest
from tests.unit.store.test_instances import IMPORTED, PORT, SECOND_PORT, SERVER
from tests.unit.store.test_instances import filled as fill

from openimds.resources.errors import StoreUnavailable
from openimds.resources.instance import InjectedFile, Instance, NicAddress
from openimds.resources.network import HostRoute
from openimds.store.database import Database
from openimds.store.engine import Store, utc_now
from openimds.store.instance_changes import InstanceChanges
from openimds.store.instances import AskingPort, InstanceStore
from openimds.store.models.revisions import Change
from openimds.store.models.servers import Server
from openimds.store.schema_version import is_newest


@pytest.fixture
def instances(store: Store) -> InstanceStore:
    return fill.__wrapped__(store)  # type: ignore[attr-defined,no-any-return]


def _told(instances: InstanceStore, instance_id: str) -> Instance:
    instance = instances.instance(instance_id)
    assert instance is not None
    return instance


def test_what_rows_tell(instances: InstanceStore) -> None:
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


def test_bytes_of_a_user(store: Store, instances: InstanceStore) -> None:
    with store.write() as session:
        session.get_one(Server, SERVER).user_data = b""
    assert _told(instances, SERVER).user_data == b""  # not None: empty is not the same as none
    with store.write() as session:
        session.get_one(Server, SERVER).user_data = None
    assert _told(instances, SERVER).user_data is None


def test_texts_that_need_care(store: Store, instances: InstanceStore) -> None:
    odd = 'a"\\\n\t\x7f%s :id ü 🦊'
    with store.write() as session:
        session.get_one(Server, SERVER).name = odd
        session.get_one(Server, SERVER).metadata_ = {odd: odd}
    instance = _told(instances, SERVER)
    assert (instance.name, instance.metadata) == (odd, {odd: odd})


def test_many_at_once(instances: InstanceStore) -> None:
    ids = [SERVER, *(f"nobody-{number}" for number in range(200))]
    revision, found = instances.instances(ids)
    assert revision == instances.revision()
    assert [one.id for one in found.values() if one] == [SERVER]
    assert list(found) == ids


def test_who_has_an_address(instances: InstanceStore) -> None:
    instances.import_instances({"instances": [IMPORTED]})
    assert instances.instance_ids_by_address("10.0.0.5") == (SERVER,)
    assert instances.instance_ids_by_address("10.9.9.9") == (IMPORTED["uuid"],)
    assert instances.instance_ids_by_address("10.9.9.%") == ()
    assert instances.ports_by_provider("lb-1", "10.0.0.6") == (AskingPort(SERVER, "p1"),)
    assert instances.ports_by_provider("lb-2", "10.0.0.6") is None


def test_a_password_is_a_change_of_its_server(store: Store, instances: InstanceStore) -> None:
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


def test_is_it_the_newest_step(store: Store) -> None:
    assert is_newest(store.database)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    assert not is_newest(store.database)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    assert not is_newest(store.database)


def test_a_connection_that_was_cut_off_is_not_noticed(store: Store, instances: InstanceStore) -> None:
    revision = instances.revision()
    for connection in store.database._idle:
        connection.close()
    if store.is_sqlite:
        store.database._idle.clear()
    assert instances.revision() == revision


@pytest.mark.parametrize("url", ["mysql://u:pw@h/d", "sqlite://", "sqlite:////f?mode=ro", "postgresql://u:pw@h:x/d"])
def test_another_database_is_a_sentence(url: str) -> None:
    with pytest.raises(StoreUnavailable) as wrong:
        Database(url)
    assert "cannot be used" in wrong.value.message
    assert "pw" not in wrong.value.message
