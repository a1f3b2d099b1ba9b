"""A fake instance store in memory that tests can make unavailable, and a thread pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.resources.instance import ChangeSet, Ec2Ids, Instance

SECRET = "s3cret"


@dataclass(frozen=True)
class Port:
    instance_id: str
    project_id: str


@dataclass
class FakeInstances:
    """The interface of store.instances.InstanceStore with the data in memory."""

    instances: dict[str, Instance] = field(default_factory=dict)
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    providers: dict[str, dict[str, tuple[Port, ...]]] = field(default_factory=dict)
    number: int = 1
    unavailable: bool = False
    query_count: int = 0
    """The number of queries, without queries of the revision."""
    on_change: Callable[[ChangeSet], None] = lambda _changes: None
    """The callback that receives every change immediately."""

    def revision(self) -> int:
        self._raise_if_unavailable()
        return self.number

    def instance(self, instance_id: str) -> Instance | None:
        self._count_query()
        return self.instances.get(instance_id)

    def instance_ids_by_address(self, address: str) -> tuple[str, ...]:
        self._count_query()
        return self.addresses.get(address, ())

    def ports_by_provider(self, provider_id: str, address: str) -> tuple[Port, ...] | None:
        self._count_query()
        ports = self.providers.get(provider_id)
        return None if ports is None else ports.get(address, ())

    def set_password_once(self, instance_id: str, text: str) -> bool:
        self._count_query()
        instance = self.instances.get(instance_id)
        if instance is None:
            raise NotFound("no such instance")
        if instance.password:
            return False
        self.put(replace(instance, password=text))
        return True

    def put(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self.number += 1
        self.on_change(ChangeSet(revision=self.number, instance_ids=frozenset({instance.id})))

    def newest(self) -> int:
        return self.revision()

    def after(self, revision: int | None) -> ChangeSet:
        self._raise_if_unavailable()
        return ChangeSet(revision=self.number, everything=revision != self.number)

    def _count_query(self) -> None:
        self._raise_if_unavailable()
        self.query_count += 1

    def _raise_if_unavailable(self) -> None:
        if self.unavailable:
            raise StoreUnavailable("the store is unavailable")


@pytest.fixture
def instances() -> FakeInstances:
    fake = FakeInstances()
    fake.put(
        Instance(
            id="11111111-2222-4333-8444-555555555501",
            project_id="p1",
            name="vm",
            hostname="vm",
            ec2_ids=Ec2Ids(instance_id="i-00000001"),
            flavor_name="m1.tiny",
        )
    )
    return fake


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
