"""Tables of the image service."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from openimds.store.models.base import NAME, UUID, Base


class Image(Base):
    """An image. Its data are the file `images/<id>` in the state folder."""

    __tablename__ = "images"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    owner: Mapped[str] = mapped_column(UUID, index=True)
    name: Mapped[str | None] = mapped_column(NAME)
    status: Mapped[str] = mapped_column(String(16), default="queued")
    visibility: Mapped[str] = mapped_column(String(16), default="shared")
    container_format: Mapped[str | None] = mapped_column(String(16))
    disk_format: Mapped[str | None] = mapped_column(String(16))
    min_disk_gib: Mapped[int] = mapped_column(default=0)
    min_ram_mib: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[str | None] = mapped_column(String(32))
    hash_algo: Mapped[str | None] = mapped_column(String(16))
    hash_value: Mapped[str | None] = mapped_column(String(128))
    protected: Mapped[bool] = mapped_column(default=False)
    hidden: Mapped[bool] = mapped_column(default=False)
    properties: Mapped[dict[str, Any]] = mapped_column(default=dict)
    tags: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class DeletedImage(Base):
    """The id of a deleted image. No other image gets it, because scripts and servers refer to images by id."""

    __tablename__ = "deleted_images"
    id: Mapped[str] = mapped_column(UUID, primary_key=True)
    deleted_at: Mapped[datetime]
