"""Revision order is commit order, on each database: a watcher that has read revision N has missed no change below N."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.callers import network_caller
from tests.waiting import HANG_SECONDS

from openimds.resources.errors import BadRequest, RevisionGone
from openimds.store import schema
from openimds.store.change_log import changes_after, newest_revision
from openimds.store.engine import Store, utc_now
from openimds.store.models.base import Base, Change, Epoch, RevisionCounter
from openimds.store.models.compute import Flavor
from openimds.store.models.image import Image
from openimds.store.models.network import IPAllocation, Network, Port
from openimds.store.network.network_store import NetworkStore
from openimds.store.raw.instance_changes import InstanceChanges
from openimds.store.watch_store import WatchStore

from . import writer


def add_network(store: Store, name: str = "n", now: datetime | None = None) -> str:
    network_id = str(uuid.uuid4())
    at = now or utc_now()
    with store.write(at) as session:
        session.add(Network(id=network_id, project_id="p", name=name, created_at=at, updated_at=at))
    return network_id


def names(store: Store) -> dict[str, str]:
    with store.read() as session:
        return {row.id: row.name for row in session.scalars(sa.select(Network))}


@dataclass
class Watcher:
    """Follows the store by changes alone, as an agent does, and keeps a copy of all networks."""

    store: Store
    seen: int = 0
    copy: dict[str, str] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)

    def catch_up(self) -> None:
        with self.store.read() as session:
            newest = newest_revision(session)
            for record in changes_after(session, self.seen, ["network"]):
                assert self.seen < record.revision <= newest
                self.revisions.append(record.revision)
                self._take(session.get(Network, record.object_id), record.object_id, deleted=record.deleted)
            self.seen = newest

    def _take(self, row: Network | None, network_id: str, *, deleted: bool) -> None:
        assert (row is None) == deleted
        if row is None:
            self.copy.pop(network_id, None)
        else:
            self.copy[network_id] = row.name

    def follow(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.catch_up()
            stop.wait(0.02)
        self.catch_up()


def test_watcher_misses_no_change_of_any_thread_or_process(store: Store) -> None:
    watchers = [Watcher(store) for _ in range(4)]
    stop = threading.Event()
    following = [threading.Thread(target=watcher.follow, args=(stop,)) for watcher in watchers]
    url = store.url.render_as_string(hide_password=False)
    program = [sys.executable, str(Path(writer.__file__)), url]
    processes = [subprocess.Popen([*program, f"process{n}", "25"]) for n in range(3)]
    threads = [threading.Thread(target=writer.write, args=(store, f"thread{n}", 25)) for n in range(3)]
    for thread in (*following, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    codes = [process.wait(HANG_SECONDS) for process in processes]
    stop.set()
    for thread in following:
        thread.join()

    assert codes == [0, 0, 0]
    truth = names(store)
    assert len(truth) == 6 * 20
    for watcher in watchers:
        assert watcher.copy == truth
        assert watcher.revisions == sorted(watcher.revisions)
    # 25 made, 9 renamed, 5 deleted, by each of six: one revision each, none twice, none left out.
    assert store.revision() == 6 * (25 + 9 + 5)
    with store.read() as session:
        taken = session.scalars(sa.select(Change.revision).order_by(Change.revision)).all()
    assert taken == list(range(1, 6 * 39 + 1))


def test_snapshot_and_later_changes_are_complete(store: Store) -> None:
    """Two queries of one read session see the same snapshot, independent of writes between them."""
    add_network(store)
    with store.read() as session:
        revision = newest_revision(session)
        add_network(store)
        assert session.scalar(sa.select(sa.func.count()).select_from(Network)) == 1
        assert newest_revision(session) == revision
        assert changes_after(session, revision, ["network"]) == []
    assert store.revision() == revision + 1


def test_object_is_returned_once_at_its_newest_change(store: Store) -> None:
    one, two = add_network(store), add_network(store)
    with store.write() as session:
        session.get_one(Network, one).name = "changed"
    with store.write() as session:
        session.delete(session.get_one(Network, two))
    with store.read() as session:
        records = changes_after(session, 0, ["network", "port"])
        assert [(r.revision, r.object_id, r.deleted) for r in records] == [(3, one, False), (4, two, True)]
        assert session.get_one(Network, one).revision_number == 3
        assert changes_after(session, 0, ["port"]) == []


def test_rolled_back_write_leaves_no_change(store: Store) -> None:
    add_network(store)

    def change_ones_mind() -> None:
        with store.write() as session:
            session.add(Network(id="x", project_id="p", created_at=utc_now(), updated_at=utc_now()))
            session.flush()
            raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        change_ones_mind()
    assert store.revision() == 1
    assert len(names(store)) == 1
    add_network(store)
    assert store.revision() == 2


def test_write_without_changes_takes_no_revision(store: Store) -> None:
    network_id = add_network(store, "same")
    with store.write() as session:
        session.get_one(Network, network_id).name = "same"
    with store.write() as session:
        session.add(Flavor(id="1", name="f", ram_mib=1, vcpus=1, disk_gib=1))
    assert store.revision() == 1


def test_allocation_changes_its_port_and_a_floating_ip_both_ports(store: Store) -> None:
    caller = network_caller("p", "admin")
    network = NetworkStore(store)
    inner = network.create("network", caller, [{"name": "n"}])[0]
    network.create("subnet", caller, [{"network_id": inner["id"], "cidr": "10.0.0.0/24"}])
    port = network.create("port", caller, [{"network_id": inner["id"]}])[0]
    before = store.revision()
    network.update("port", caller, port["id"], {"fixed_ips": [{"ip_address": "10.0.0.77"}]})
    with store.read() as session:
        records = changes_after(session, before, ["port", "network", "subnet"])
        assert [(r.kind, r.object_id) for r in records] == [("port", port["id"])]
        assert session.get_one(Port, port["id"]).revision_number == before + 1


def test_pruning_keeps_young_changes_and_older_revisions_are_gone(store: Store) -> None:
    start = utc_now()
    for minutes in (0, 10, 20):
        add_network(store, now=start + timedelta(minutes=minutes))
    assert store.prune_changes(timedelta(minutes=15), start + timedelta(minutes=30)) == 2
    with store.read() as session:
        assert [r.revision for r in changes_after(session, 2, ["network"])] == [3]
        for unknown in (0, 1, 4):
            with pytest.raises(RevisionGone, match="list again"):
                changes_after(session, unknown, ["network"])
    assert store.prune_changes(timedelta(minutes=15), start + timedelta(minutes=30)) == 0


def test_commit_of_this_process_notifies_listeners(store: Store) -> None:
    heard: list[int] = []
    stop = store.on_commit(heard.append)
    add_network(store)
    stop()
    add_network(store)
    assert heard == [1]


def test_bulk_write_of_a_watched_table_is_rejected(store: Store) -> None:
    add_network(store)
    for statement in (
        sa.update(Network).values(name="x"),
        sa.delete(Network),
        sa.insert(IPAllocation).values(port_id="x"),
        sa.update(Base.metadata.tables["networks"]).values(name="x"),
    ):
        with pytest.raises(RuntimeError, match="would not be recorded as a change"), store.write() as session:
            session.execute(statement)


def test_read_session_cannot_write(store: Store) -> None:
    with store.read() as session:
        session.add(Flavor(id="1", name="f", ram_mib=1, vcpus=1, disk_gib=1))
        with pytest.raises(RuntimeError, match=r"Store\.write"):
            session.flush()


def test_nested_write_is_rejected(store: Store) -> None:
    with store.write(), pytest.raises(RuntimeError, match="wait for itself"), store.write():
        pass
    add_network(store)


def restore(store: Store, revision: int) -> None:
    """The state of the database after a copy of this revision was restored, as far as revisions are concerned."""
    with store.engine.begin() as connection:
        connection.execute(sa.delete(Change).where(Change.revision > revision))
        connection.execute(sa.delete(Epoch).where(Epoch.first_revision > revision))
        connection.execute(sa.update(RevisionCounter).values(value=revision))


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "running"])
def test_restored_copy_that_has_overtaken_a_client_is_recognised(store: Store, restarted: bool) -> None:
    """The copy looked like a newer state of the same database, and agents deleted the servers that it had lost."""
    add_network(store)
    copied = WatchStore(store).snapshot(["network"])[0]
    add_network(store)
    lost = WatchStore(store).snapshot(["network"])[0]
    restore(store, copied.revision)
    other = Store(store.url.render_as_string(hide_password=False)) if restarted else store
    for _ in range(5):
        add_network(other)
    watch = WatchStore(other)
    assert watch.snapshot(["network"], lost.revision)[0].known_epoch not in {"", lost.epoch}
    assert watch.snapshot(["network"], copied.revision)[0].known_epoch == copied.epoch != ""
    with pytest.raises(RevisionGone):
        watch.changes(lost.revision, ["network"], lost.store_id, lost.epoch)
    assert len(watch.changes(copied.revision, ["network"], copied.store_id, copied.epoch)[1]) == 5
    assert InstanceChanges(other.database).after(lost.revision).known_epoch != lost.epoch
    if restarted:
        other.close()


def test_each_process_starts_one_epoch_with_its_first_revision(store: Store) -> None:
    def epochs() -> list[int]:
        with store.engine.connect() as connection:
            return list(connection.scalars(sa.select(Epoch.first_revision).order_by(Epoch.first_revision)))

    for _ in range(3):
        add_network(store)
    first = epochs()
    assert len(first) == 1
    other = Store(store.url.render_as_string(hide_password=False))
    with other.write():
        pass
    assert epochs() == first, "a transaction without a revision starts no epoch"
    add_network(other)
    add_network(store)
    assert epochs() == [*first, store.revision() - 1]
    other.close()


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_migrated_schema_equals_the_models(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    schema.upgrade(store)
    assert schema.current(store) == schema.newest()


def test_value_out_of_the_range_of_its_column_is_an_error_of_the_request(store: Store) -> None:
    """SQLite stores it. PostgreSQL refuses it, and the store seemed to be unavailable."""
    if store.is_sqlite:
        pytest.skip("SQLite has no such range")
    with pytest.raises(BadRequest, match="out of the range"), store.write() as session:
        session.add(
            Image(id="i", owner="p", min_disk_gib=2**40, properties={}, created_at=utc_now(), updated_at=utc_now())
        )
