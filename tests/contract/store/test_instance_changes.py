"""What the metadata API hears of: named instances, ports and networks; never less than what changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from openimds.resources.errors import StoreUnavailable
from openimds.store import models
from openimds.store.engine import Store
from openimds.store.instance_changes import InstanceChanges
from openimds.store.instances import InstanceStore

NOW = datetime(2026, 11, 22)  # noqa: DTZ001 - as the tables have it
SERVER = "11111111-2222-4333-8444-555555555501"


@pytest.fixture
def changes(store: Store) -> Iterator[InstanceChanges]:
    changes = InstanceChanges(store)
    yield changes
    changes.close()


def group(name: str, updated: datetime = NOW) -> models.SecurityGroup:
    return models.SecurityGroup(id="g", project_id="p", name=name, created_at=NOW, updated_at=updated)


def test_a_server_and_its_password(store: Store, changes: InstanceChanges) -> None:
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
    assert changes.after(third.revision).is_nothing


def test_what_is_not_known_any_more_is_everything(store: Store, changes: InstanceChanges) -> None:
    assert changes.after(10_000).everything


def test_a_new_group_is_nothing_and_a_renamed_one_is_everything(store: Store, changes: InstanceChanges) -> None:
    start = changes.after(None).revision
    with store.write() as session:
        session.add(group("web"))
    made = changes.after(start)
    assert made.revision > start
    assert made.is_nothing
    with store.write() as session:
        row = session.get_one(models.SecurityGroup, "g")
        row.name, row.updated_at = "www", NOW + timedelta(seconds=1)
    assert changes.after(made.revision).everything


def test_a_store_that_is_gone(tmp_path: Path) -> None:
    changes = InstanceChanges(Store(f"sqlite:///{tmp_path}/no/folder"))
    with pytest.raises(StoreUnavailable):
        changes.newest()
