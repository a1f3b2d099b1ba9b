"""The first rows of a cloud. A second bootstrap adds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.databases import CHEAP_ROUNDS

from openimds.resources.errors import StoreUnavailable
from openimds.store.bootstrap import GUEST_BYTES, bootstrap
from openimds.store.engine import Store, utc_now
from openimds.store.models.compute import Flavor
from openimds.store.models.identity import Project, Role, RoleAssignment, User
from openimds.store.models.image import Image
from openimds.store.models.network import SecurityGroup
from openimds.store.passwords import verify_password


def count(store: Store) -> dict[str, int]:
    tables = (User, Project, Role, RoleAssignment, Flavor, Image)
    with store.read() as session:
        return {
            model.__name__: session.execute(sa.select(sa.func.count()).select_from(model)).scalar_one()
            for model in (*tables, SecurityGroup)
        }


def test_second_bootstrap_changes_nothing(store: Store, tmp_path: Path) -> None:
    bootstrap(store, "one", "two", tmp_path / "images", utc_now(), CHEAP_ROUNDS)
    first, revision = count(store), store.revision()
    bootstrap(store, "one", "two", tmp_path / "images", utc_now(), CHEAP_ROUNDS)
    assert count(store) == first
    assert first["SecurityGroup"] == first["Project"] == 2
    with store.read() as session:
        image = session.scalars(sa.select(Image)).one()
        assert (image.name, image.status, image.visibility) == ("guest", "active", "public")
        assert (tmp_path / "images" / image.id).read_bytes() == GUEST_BYTES
        assert image.size_bytes == len(GUEST_BYTES)
        roles = session.execute(
            sa.select(User.name, RoleAssignment.target, Role.name)
            .join(RoleAssignment, RoleAssignment.user_id == User.id)
            .join(Role, Role.id == RoleAssignment.role_id)
        ).all()
    assert ("admin", "system", "admin") in {tuple(row) for row in roles}
    assert {(row[0], row[2]) for row in roles} == {("admin", "admin"), ("neutron", "service"), ("nova", "service")}
    assert store.revision() == revision, "the second time nothing was written"


def test_new_password_of_the_configuration_is_set(store: Store, tmp_path: Path) -> None:
    bootstrap(store, "one", "two", tmp_path, utc_now(), CHEAP_ROUNDS)
    bootstrap(store, "changed", "two", tmp_path, utc_now(), CHEAP_ROUNDS)
    with store.read() as session:
        admin = session.scalars(sa.select(User).where(User.name == "admin")).one()
        assert verify_password("changed", admin.password_hash)


def test_unwritable_image_folder_rolls_the_bootstrap_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"image folder .* cannot be written"):
        bootstrap(store, "one", "two", tmp_path / "file", utc_now(), CHEAP_ROUNDS)
    assert set(count(store).values()) == {0}
