"""A migration of the next release on a store in use: all rows survive, and programs with open connections continue."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.databases import CHEAP_ROUNDS

from openimds.resources.errors import StoreUnavailable
from openimds.store import schema
from openimds.store.bootstrap import bootstrap
from openimds.store.engine import Store, utc_now
from openimds.store.models.identity import RoleAssignment, User

HEAD = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
"""
COPYING = """
    with op.batch_alter_table("users", recreate="always") as users:  # SQLite needs a copy of the table for most changes
        users.add_column(sa.Column("nickname", sa.String(255)))
"""
LOSING = """
    op.execute("DELETE FROM users")
"""


@pytest.fixture
def take_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[Callable[[str], Store]]:
    """Runs a migration with this body as a program of the next release does. Returns that program's store."""
    opened = Store(str(store.url))

    def take(body: str) -> Store:
        further = tmp_path / "migrations"
        shutil.copytree(schema.MIGRATIONS, further)
        (further / "versions" / "9999_next.py").write_text(HEAD.format(before=schema.newest()) + body)
        monkeypatch.setattr(schema, "MIGRATIONS", further)
        schema.upgrade(opened)
        return opened

    yield take
    opened.close()


def names(store: Store) -> tuple[set[str], int]:
    """(names of the users, number of role assignments)."""
    with store.read() as session:
        assigned = session.execute(sa.select(sa.func.count()).select_from(RoleAssignment)).scalar_one()
        return set(session.scalars(sa.select(User.name))), assigned


def test_table_is_copied_and_rows_that_refer_to_it_stay(
    store: Store, tmp_path: Path, take_step: Callable[[str], Store]
) -> None:
    bootstrap(store, "one", "two", tmp_path / "images", utc_now(), CHEAP_ROUNDS)
    before = names(store)
    assert before[1] > 0
    upgraded = take_step(COPYING)
    assert schema.current(upgraded) == "9999"
    assert names(upgraded) == before
    with upgraded.read() as session:
        assert session.scalar(sa.text("SELECT count(nickname) FROM users")) == 0
        assert session.scalar(sa.text("PRAGMA foreign_keys")) == 1
    # A program of the earlier release continues on its open connections.
    with store.write() as session:
        session.execute(sa.select(User).where(User.name == "admin")).scalar_one().description = "still written"
    assert names(store) == before


def test_migration_that_would_leave_dangling_rows_changes_nothing(
    store: Store, tmp_path: Path, take_step: Callable[[str], Store]
) -> None:
    bootstrap(store, "one", "two", tmp_path / "images", utc_now(), CHEAP_ROUNDS)
    before, step = names(store), schema.newest()
    with pytest.raises(StoreUnavailable, match=r"the tables are unchanged: .* role_assignments would refer"):
        take_step(LOSING)
    assert (names(store), schema.current(store)) == (before, step)
