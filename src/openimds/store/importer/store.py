"""The instances of the store, for programs that also bring some into it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from openimds.store.engine import Store
from openimds.store.importer.importer import import_server, instances_in
from openimds.store.raw.metadata_store import MetadataStore, PortIdentity


class _UndoneError(Exception):
    """Nothing is wrong: a dry run ends like this."""


class InstanceStore(MetadataStore):
    """Threads may share it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.database)
        self._store = store

    def import_instances(self, document: Mapping[str, Any], *, dry_run: bool = False) -> tuple[str, ...]:
        """Make or replace the instances of `{"instances": […]}` and return their ids; all of them or none.

        The form is that of docs/guide/import.md, or nova's own (instance_import.py). `dry_run`: all is done and then
        undone. Raises BadRequest naming the field, Conflict.
        """
        imported: list[str] = []
        with suppress(_UndoneError), self._store.write() as session:
            imported.extend(import_server(session, fields) for fields in instances_in(document))
            if dry_run:
                session.flush()
                raise _UndoneError
        return tuple(imported)


__all__ = ["InstanceStore", "PortIdentity"]
