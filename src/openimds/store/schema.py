"""Migration of the tables to the version that this release needs.

After a change of models/, `python -m openimds.store.schema "what changed"` drafts a migration in migrations/versions.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from openimds.resources.errors import StoreUnavailable
from openimds.store.engine import Store
from openimds.store.models.base import RevisionCounter

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(store: Store) -> None:
    """Creates or upgrades all tables and the row of the revision counter. Idempotent.

    Raises StoreUnavailable, also if a newer release created the tables, because there is no downgrade.
    """
    _make_folder(store)
    with store.translated_errors(), store.engine.connect() as connection:
        if store.is_sqlite:
            # Most migrations copy a table, and dropping the old one would delete the rows that refer to it. SQLite ignores
            # this pragma within a transaction. The connection is detached, so that the pool does not get it back.
            connection.detach()
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            # If two programs start on an empty folder, one creates the tables and the other one waits.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(8775)"))
        before = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(before)
        command.upgrade(_config(connection), "head")
        if store.is_sqlite and before != newest():
            _refuse_dangling(connection)
        if connection.scalar(sa.select(RevisionCounter.id).where(RevisionCounter.id == 1)) is None:
            connection.execute(sa.insert(RevisionCounter).values(id=1, value=0, floor=0, store_id=str(uuid.uuid4())))
        connection.commit()


def _refuse_newer(step: str | None) -> None:
    known = {path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    if step is not None and step not in known:
        raise StoreUnavailable(
            f"the tables have version {step} of a newer openimds, and this one knows versions up to {max(known)}: install "
            "the newer openimds again, or restore the copy of the database that was made before the upgrade"
        )


def _refuse_dangling(connection: sa.Connection) -> None:
    tables = sorted({row[0] for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    if tables:
        raise StoreUnavailable(
            f"the tables are unchanged: after the upgrade rows of {', '.join(tables)} would refer to missing rows"
        )


def current(store: Store) -> str | None:
    """The schema version of the database. None if the database has no tables."""
    with store.translated_errors(), store.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_empty(store: Store) -> bool:
    """Whether the database has no tables yet. Creates nothing."""
    database = store.url.database
    if store.is_sqlite and database and not (Path(database).exists() and Path(database).stat().st_size):
        return True
    return current(store) is None


def newest() -> str:
    """The version of the tables that this release needs."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None, "migrations/versions has no migration"
    return head


def draft(message: str) -> Path:
    """Writes a migration from the newest version to the tables of models/. Returns the path of the file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/draft.sqlite")
        with store.engine.connect() as connection:
            if list((MIGRATIONS / "versions").glob("[0-9]*.py")):
                command.upgrade(_config(connection), "head")
            number = f"{len(list((MIGRATIONS / 'versions').glob('[0-9]*.py'))) + 1:04d}"
            script = command.revision(_config(connection), message, autogenerate=True, rev_id=number)
        store.close()
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _make_folder(store: Store) -> None:
    if not store.is_sqlite or not store.url.database:
        return
    try:
        Path(store.url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the folder of {store.url.database} cannot be created: {error}") from error


if __name__ == "__main__":
    print(draft(sys.argv[1]))  # noqa: T201 - a command for developers
