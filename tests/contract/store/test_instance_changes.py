"""Changes for the metadata API: the named instances, ports and networks include everything that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from openimds.resources.errors import StoreUnavailable
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore
from openimds.store.models.network import FloatingIP, IPAllocation, Network, Port, SecurityGroup, Subnet
from openimds.store.raw.database import Database
from openimds.store.raw.instance_changes import InstanceChanges

NOW = datetime(2026, 11, 22)  # noqa: DTZ001 - as the tables have it
SERVER = "11111111-2222-4333-8444-555555555501"
TIMES = {"created_at": NOW, "updated_at": NOW}


@pytest.fixture
def changes(store: Store) -> Iterator[InstanceChanges]:
    changes = InstanceChanges(store.database)
    yield changes
    changes.close()


def group(name: str, updated: datetime = NOW) -> SecurityGroup:
    return SecurityGroup(id="g", project_id="p", name=name, created_at=NOW, updated_at=updated)


def test_server_and_its_password_name_the_instance(store: Store, changes: InstanceChanges) -> None:
    first = changes.after(None)
    assert first.everything
    assert changes.newest() == first.revision
    instances = InstanceStore(store)
    instances.import_instances({"instances": [{"uuid": SERVER, "project_id": "p1", "hostname": "vm"}]})
    assert changes.newest() > first.revision
    second = changes.after(first.revision)
    assert not second.everything
    assert second.instance_ids == {SERVER}
    instances.set_password_once(SERVER, "x")
    third = changes.after(second.revision)
    assert third.instance_ids == {SERVER}
    assert changes.newest() == third.revision
    assert changes.after(third.revision).is_empty


def test_unknown_revision_means_everything(store: Store, changes: InstanceChanges) -> None:
    assert changes.after(10_000).everything


def test_renamed_group_means_everything_and_a_new_one_nothing(store: Store, changes: InstanceChanges) -> None:
    start = changes.after(None).revision
    with store.write() as session:
        session.add(group("web"))
    made = changes.after(start)
    assert made.revision > start
    assert made.is_empty
    with store.write() as session:
        row = session.get_one(SecurityGroup, "g")
        row.name, row.updated_at = "www", NOW + timedelta(seconds=1)
    assert changes.after(made.revision).everything


def allocation(address: str) -> IPAllocation:
    return IPAllocation(subnet_id="s", network_id="n", ip_address=address)


def port(port_id: str, address: str, **more: Any) -> Port:
    fields = {"id": port_id, "network_id": "n", "project_id": "p", "mac_address": f"fa:16:3e:00:00:{address[-2:]}"}
    return Port(**fields, fixed_ips=[allocation(address)], **TIMES, **more)


@pytest.fixture
def network(store: Store) -> None:
    """Network n, its subnet s, and port p of server vm."""
    with store.write() as session:
        session.add(Network(id="n", project_id="p", **TIMES))
        session.flush()
        session.add(
            Subnet(
                id="s", network_id="n", project_id="p", ip_version=4, cidr="10.0.0.0/24", allocation_pools=[], **TIMES
            )
        )
        session.flush()
        session.add(port("p", "10.0.0.11", attached_id="vm", attached_owner="compute:nova"))


@dataclass
class Watcher:
    """Writes to the store and reads the objects that the change names."""

    store: Store
    changes: InstanceChanges

    def hears(self, write: Callable[[Session], object]) -> tuple[set[str], set[str], set[str]]:
        """(instances, ports, networks)"""
        before = self.store.revision()
        with self.store.write() as session:
            write(session)
        touched = self.changes.after(before)
        assert touched.revision == self.store.revision() > before
        assert not touched.everything
        return set(touched.instance_ids), set(touched.port_ids), set(touched.network_ids)


@pytest.fixture
def watcher(store: Store, changes: InstanceChanges, network: None) -> Watcher:
    return Watcher(store, changes)


class TestPorts:
    def test_added_and_removed_address_name_the_port(self, watcher: Watcher) -> None:
        def come(session: Session) -> None:
            row = session.get_one(Port, "p")
            row.fixed_ips.append(allocation("10.0.0.12"))

        def go(session: Session) -> None:
            row = session.get_one(Port, "p")
            del row.fixed_ips[0]

        assert watcher.hears(come) == ({"vm"}, {"p"}, set())
        assert watcher.hears(go) == ({"vm"}, {"p"}, set())

    def test_port_that_changes_its_instance_names_both(self, watcher: Watcher) -> None:
        def give(session: Session) -> None:
            session.get_one(Port, "p").attached_id = "vm2"

        assert watcher.hears(give) == ({"vm2"}, {"p"}, set())  # vm is known by the port, which its record names

    def test_new_and_deleted_port_are_named(self, watcher: Watcher) -> None:
        plugged = {"attached_id": "vm", "attached_owner": "compute:nova"}
        assert watcher.hears(lambda session: session.add(port("q", "10.0.0.13", **plugged))) == ({"vm"}, {"q"}, set())
        assert watcher.hears(lambda session: session.delete(session.get_one(Port, "q"))) == (set(), {"q"}, set())

    def test_floating_ip_names_its_port(self, watcher: Watcher) -> None:
        floating = FloatingIP(
            id="f",
            project_id="p",
            floating_network_id="n",
            floating_ip_address="203.0.113.9",
            floating_port_id="x",
            port_id="p",
            fixed_ip_address="10.0.0.11",
            **TIMES,
        )

        def take_away(session: Session) -> None:
            session.get_one(FloatingIP, "f").port_id = None

        assert watcher.hears(lambda session: session.add(floating)) == ({"vm"}, {"p"}, set())
        assert watcher.hears(take_away) == ({"vm"}, {"p"}, set())

    def test_router_port_names_no_instance(self, watcher: Watcher) -> None:
        owner = {"attached_id": "r", "attached_owner": "network:router_interface"}
        assert watcher.hears(lambda session: session.add(port("q", "10.0.0.14", **owner))) == (set(), {"q"}, set())


class TestNetworks:
    def test_changed_mtu_names_the_network(self, watcher: Watcher) -> None:
        def shrink(session: Session) -> None:
            session.get_one(Network, "n").mtu = 1400

        assert watcher.hears(shrink) == (set(), set(), {"n"})

    def test_changed_subnet_names_its_network(self, watcher: Watcher) -> None:
        def name_servers(session: Session) -> None:
            session.get_one(Subnet, "s").dns_nameservers = ["192.0.2.53"]

        assert watcher.hears(name_servers) == (set(), set(), {"n"})

    def test_deleted_subnet_names_its_network(self, watcher: Watcher) -> None:
        watcher.hears(lambda session: session.delete(session.get_one(Port, "p")))
        delete = watcher.hears(lambda session: session.delete(session.get_one(Subnet, "s")))
        assert delete == (set(), set(), {"n"})

    def test_dhcp_port_names_its_network(self, watcher: Watcher) -> None:
        dhcp = port("d", "10.0.0.15", attached_id="dhcp-1", attached_owner="network:dhcp")
        assert watcher.hears(lambda session: session.add(dhcp)) == (set(), {"d"}, {"n"})

        def lose_an_address(session: Session) -> None:
            session.delete(session.get_one(IPAllocation, ("d", "10.0.0.15")))

        assert watcher.hears(lose_an_address) == (set(), {"d"}, {"n"})
        again = InstanceChanges(watcher.store.database)  # the watcher does not store that the port was a DHCP port
        gone = Watcher(watcher.store, again)
        assert gone.hears(lambda session: session.delete(session.get_one(Port, "d"))) == (set(), {"d"}, {"n"})

    def test_port_that_was_a_dhcp_port_names_its_network(self, watcher: Watcher) -> None:
        watcher.hears(lambda session: session.add(port("d", "10.0.0.16", attached_owner="network:dhcp")))

        def other_owner(session: Session) -> None:
            session.get_one(Port, "d").attached_owner = ""

        assert watcher.hears(other_owner) == (set(), {"d"}, {"n"})


def test_missing_database_is_unavailable(tmp_path: Path) -> None:
    changes = InstanceChanges(Database(f"sqlite:///{tmp_path}/no/folder"))
    with pytest.raises(StoreUnavailable):
        changes.newest()
