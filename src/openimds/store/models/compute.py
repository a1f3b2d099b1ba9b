"""What Nova's servers are made with, and the small numbers that EC2 clients know them by."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import NAME, UUID, Base


class Flavor(Base):
    __tablename__ = "flavors"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    ram_mib: Mapped[int]
    vcpus: Mapped[int]
    disk_gib: Mapped[int]
    ephemeral_gib: Mapped[int] = mapped_column(default=0)
    swap_mib: Mapped[int] = mapped_column(default=0)
    is_public: Mapped[bool] = mapped_column(default=True)
    extra_specs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    description: Mapped[str | None] = mapped_column(Text)


class Keypair(Base):
    __tablename__ = "keypairs"
    user_id: Mapped[str] = mapped_column(UUID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    type: Mapped[str] = mapped_column(String(8), default="ssh")
    public_key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Ec2Id(Base):
    """nova's s3_images and instance id mappings: a small number for each uuid, for the life of the object.

    `i-0000002a` is number 42 of kind `instance`; `ami-`, `aki-` and `ari-` share the numbers of kind `image`.
    """

    __tablename__ = "ec2_ids"
    __table_args__ = (UniqueConstraint("kind", "object_id"),)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(UUID)
