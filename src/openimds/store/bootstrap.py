"""The first rows of a cloud: roles, projects, users, flavors, an image. A later run adds only what is missing.

Passwords that differ from the configuration files are set again, so that those of the files always work.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import StoreUnavailable
from openimds.store.engine import Store
from openimds.store.models.compute import Flavor
from openimds.store.models.identity import Project, Role, RoleAssignment, User
from openimds.store.models.image import Image
from openimds.store.network.security_groups import ensure_default
from openimds.store.passwords import ROUNDS, hash_password, verify_password

ROLES = ("admin", "member", "reader", "service")
SYSTEM = "system"

ADMIN_PROJECT = "admin"
SERVICE_PROJECT = "service"
SERVICE_USERS = ("neutron", "nova")
"""Agents log in as one of these users, as in the sample files of Neutron and Nova."""

GUEST_IMAGE = "guest"
GUEST_BYTES = (
    b"This image stands for the guest of openimds' netns driver: its machine is a network namespace and its boot script\n"
    b"comes with openimds, so there is nothing on this disk.\n"
)
GUEST_PROPERTIES = {"os_type": "linux", "hypervisor_type": "netns", "openimds_driver": "netns"}


@dataclass(frozen=True, slots=True)
class Size:
    """A flavor of a new cloud."""

    id: str
    name: str
    ram_mib: int
    vcpus: int
    disk_gib: int


FLAVORS = (
    Size("42", "m1.nano", 64, 1, 0),
    Size("1", "m1.tiny", 512, 1, 1),
    Size("2", "m1.small", 2048, 1, 20),
    Size("3", "m1.medium", 4096, 2, 40),
    Size("4", "m1.large", 8192, 4, 80),
    Size("5", "m1.xlarge", 16384, 8, 160),
)

Named = TypeVar("Named", Role, Project, User)


def bootstrap(
    store: Store, admin_password: str, service_password: str, images_dir: Path, now: datetime, rounds: int = ROUNDS
) -> None:
    """Adds missing rows. `rounds` is bcrypt's cost of the password hashes. The tables must exist (schema.upgrade). Raises StoreUnavailable."""
    passwords = {"admin": admin_password, **dict.fromkeys(SERVICE_USERS, service_password)}
    hashes = _needed_hashes(store, passwords, rounds)  # before the transaction: a hash takes a fifth of a second
    with store.write(now) as session:
        roles = {name: _named(session, Role, name) for name in ROLES}
        admin_project = _project(session, ADMIN_PROJECT, "Operators")
        service_project = _project(session, SERVICE_PROJECT, "The cloud's own programs")
        admin = _user(session, "admin", hashes, admin_project.id, now)
        _assign(session, admin, admin_project.id, [roles["admin"]])
        _assign(session, admin, SYSTEM, [roles["admin"]])
        for name in SERVICE_USERS:
            user = _user(session, name, hashes, service_project.id, now)
            _assign(session, user, service_project.id, [roles["service"]])
        for project in (admin_project, service_project):
            ensure_default(session, project.id, now)
        _flavors(session)
        image = _image(session, admin_project.id, now)
        _write_image(images_dir, image)


def _needed_hashes(store: Store, passwords: dict[str, str], rounds: int) -> dict[str, str]:
    """Hashes for the users that do not exist or have another password."""
    with store.read() as session:
        known = {user.name: user.password_hash for user in session.scalars(sa.select(User))}
    return {
        name: hash_password(password, rounds)
        for name, password in passwords.items()
        if name not in known or not verify_password(password, known[name])
    }


def _named(session: Session, model: type[Named], name: str, **values: Any) -> Named:
    row = session.scalar(sa.select(model).where(model.name == name))
    if row is None:
        row = model(id=uuid.uuid4().hex, name=name, **values)
        session.add(row)
        session.flush()
    return row


def _project(session: Session, name: str, description: str) -> Project:
    return _named(session, Project, name, description=description)


def _user(session: Session, name: str, hashes: dict[str, str], project_id: str, now: datetime) -> User:
    initial = {"password_hash": hashes.get(name, ""), "default_project_id": project_id, "password_changed_at": now}
    user = _named(session, User, name, **initial)
    if name in hashes and user.password_hash != hashes[name]:
        user.password_hash = hashes[name]
        user.password_changed_at = now
    return user


def _assign(session: Session, user: User, target: str, roles: Sequence[Role]) -> None:
    for role in roles:
        if session.get(RoleAssignment, (user.id, target, role.id)) is None:
            session.add(RoleAssignment(user_id=user.id, target=target, role_id=role.id))
    session.flush()


def _flavors(session: Session) -> None:
    """Adds flavors to an empty table only, so that a flavor that an operator deleted stays deleted."""
    if session.scalar(sa.select(Flavor.id).limit(1)) is not None:
        return
    for size in FLAVORS:
        session.add(Flavor(id=size.id, name=size.name, ram_mib=size.ram_mib, vcpus=size.vcpus, disk_gib=size.disk_gib))
    session.flush()


def _image(session: Session, owner: str, now: datetime) -> Image:
    image = session.scalar(sa.select(Image).where(Image.name == GUEST_IMAGE, Image.owner == owner))
    if image is None:
        image = Image(
            id=str(uuid.uuid4()),
            owner=owner,
            name=GUEST_IMAGE,
            status="active",
            visibility="public",
            container_format="bare",
            disk_format="raw",
            size_bytes=len(GUEST_BYTES),
            checksum=hashlib.md5(GUEST_BYTES, usedforsecurity=False).hexdigest(),
            hash_algo="sha512",
            hash_value=hashlib.sha512(GUEST_BYTES).hexdigest(),
            properties=GUEST_PROPERTIES,
            created_at=now,
            updated_at=now,
        )
        session.add(image)
        session.flush()
    return image


def _write_image(images_dir: Path, image: Image) -> None:
    """Writes the image's file atomically. An image with data of an operator stays unchanged."""
    path = images_dir / image.id
    if path.exists() or image.size_bytes != len(GUEST_BYTES):
        return
    try:
        images_dir.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(GUEST_BYTES)
        unfinished.replace(path)
    except OSError as error:
        raise StoreUnavailable(f"the image folder {images_dir} cannot be written: {error}") from error
