"""A control API without instance records, as a real OpenStack has it."""

from __future__ import annotations

from collections.abc import Callable

from openimds.metadata.context import DocumentSettings
from openimds.resources.errors import NotOffered
from openimds.resources.instance import ChangeSet, Instance


class NoRecords:
    """A record source that has no records."""

    age_seconds = 0.0

    def start(self) -> None: ...
    def close(self) -> None: ...
    def subscribe_settings(self, callback: Callable[[DocumentSettings], None]) -> None: ...

    def instance(self, instance_id: str) -> Instance | None:
        raise NotOffered("no such extension")

    def settings(self) -> DocumentSettings:
        raise NotOffered("no such extension")

    def newest(self) -> int:
        raise NotOffered("no such extension")

    def after(self, revision: int | None) -> ChangeSet:
        raise NotOffered("no such extension")
