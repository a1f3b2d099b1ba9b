"""Images: their rows, and their data in files `images/<id>`. Data of an unfinished upload is invisible."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openimds.resources import image as nouns
from openimds.resources.compute import Requester
from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound, PayloadTooLarge, StoreUnavailable
from openimds.resources.instance import EC2_IMAGE
from openimds.store.ec2_ids import assign_ec2_number
from openimds.store.engine import Store, utc_now
from openimds.store.models.image import DeletedImage, Image

HASH_ALGO = "sha512"


UNLIMITED = -1
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """The limits of images. UNLIMITED switches a limit of projects off."""

    image_bytes: int = 32 * 1024 * MIB
    images_of_project: int = 100
    bytes_of_project: int = 100 * 1024 * MIB
    reserved_bytes: int = 1024 * MIB
    """Free space of the file system that no upload takes."""


class UploadMeter:
    """The bytes of unfinished uploads of this process by project. The object is thread-safe."""

    def __init__(self, limits: ImageLimits, images_dir: Path) -> None:
        self.limits = limits
        self._dir = images_dir
        self._lock = threading.Lock()
        self._by_project: dict[str, int] = {}
        self.finished = 0
        """The number of finished uploads. The stored bytes of a project are read again when it changes."""

    def check(self, size: int, more: int, project_id: str, stored: int) -> None:
        """Raises PayloadTooLarge, which is Glance's error, if an upload with `size` bytes may not have `more` bytes.

        `stored` are the bytes of the project's images.
        """
        limits = self.limits
        if size + more > limits.image_bytes:
            raise PayloadTooLarge(
                f"Image exceeds the storage quota: at most {limits.image_bytes} bytes (image_size_cap)."
            )
        unfinished = self._by_project.get(project_id, 0)
        if limits.bytes_of_project != UNLIMITED and stored + unfinished + more > limits.bytes_of_project:
            raise PayloadTooLarge(
                f"The images of the project exceed its limit of {limits.bytes_of_project // MIB} MiB (image_size_total)."
            )
        space = os.statvfs(self._dir)
        if space.f_bavail * space.f_frsize < limits.reserved_bytes + more:
            raise PayloadTooLarge(
                "There is not enough disk space on the image storage media (image_disk_reserve_mib stays free)."
            )

    def add(self, project_id: str, count: int) -> None:
        """Counts received bytes, or, with a negative number, bytes of an upload that ended."""
        with self._lock:
            self._by_project[project_id] = self._by_project.get(project_id, 0) + count
            if not self._by_project[project_id]:
                del self._by_project[project_id]


class Upload:
    """An upload to `<id>.part`.

    `finish` renames the file to `<id>` and sets the image active. `abort` sets the image queued again.
    """

    def __init__(self, store: Store, images_dir: Path, image_id: str, *, meter: UploadMeter, owner: str) -> None:
        self._store = store
        self._dir = images_dir
        self._image_id = image_id
        self._meter = meter
        self._owner = owner
        self._finished = meter.finished
        self._stored = bytes_of_project(store, owner)
        self._part = images_dir / f"{image_id}.part"
        self._file: BinaryIO | None = None
        self._checksum = hashlib.md5(usedforsecurity=False)
        self._hash = hashlib.sha512()
        self._size = self._metered = 0

    def write(self, chunk: bytes) -> None:
        """Raises StoreUnavailable if the file cannot be written, PayloadTooLarge beyond a limit."""
        try:
            if self._file is None:
                self._dir.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            self._check(len(chunk))
            self._file.write(chunk)
        except OSError as error:
            raise self._unavailable(error) from error
        self._checksum.update(chunk)
        self._hash.update(chunk)
        self._size += len(chunk)
        self._meter.add(self._owner, len(chunk))
        self._metered += len(chunk)

    def expect(self, size: int) -> None:
        """Checks the announced size before the data is read. Raises PayloadTooLarge."""
        self._dir.mkdir(parents=True, exist_ok=True)
        self._check(size)

    def _check(self, more: int) -> None:
        if self._finished != self._meter.finished:
            self._finished = self._meter.finished
            self._stored = bytes_of_project(self._store, self._owner)
        self._meter.check(self._size, more, self._owner, self._stored)

    def finish(self) -> None:
        """Raises StoreUnavailable. Raises NotFound if the image was deleted during the upload, and removes the data."""
        self.write(b"")
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise self._unavailable(error) from error
        with self._store.write() as session:
            row = session.get(Image, self._image_id)
            if row is None or row.status != "saving":
                self._part.unlink(missing_ok=True)
                raise NotFound(f"Image {self._image_id} was deleted while its data was uploaded.")
            self._publish()
            row.status = "active"
            row.size_bytes = self._size
            row.checksum = self._checksum.hexdigest()
            row.hash_algo = HASH_ALGO
            row.hash_value = self._hash.hexdigest()
            row.updated_at = utc_now()
        self._meter.finished += 1
        self._leave_meter()

    def abort(self) -> None:
        """Discards the data. Idempotent."""
        if self._file is not None:
            # Closing writes buffered data, which fails on a full disk. The data is discarded anyway.
            with contextlib.suppress(OSError):
                self._file.close()
        self._part.unlink(missing_ok=True)
        self._leave_meter()
        with self._store.write() as session:
            row = session.get(Image, self._image_id)
            if row is not None and row.status == "saving":
                row.status = "queued"

    def _leave_meter(self) -> None:
        self._meter.add(self._owner, -self._metered)
        self._metered = 0

    def _publish(self) -> None:
        """Renames the file. The caller has the write lock, so the file belongs to the row that becomes active."""
        try:
            self._part.replace(self._dir / self._image_id)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"the data of the image cannot be written to {self._part}: {error.strerror}; "
            "check that the disk is not full and that this user may write there"
        )


def bytes_of_project(store: Store, project_id: str) -> int:
    """The bytes of all images of a project."""
    total = sa.select(sa.func.coalesce(sa.func.sum(Image.size_bytes), 0)).where(Image.owner == project_id)
    with store.read() as session:
        return int(session.execute(total).scalar_one() or 0)


def remove_data(images_dir: Path, image_id: str) -> None:
    """Removes the data of an image, also of an upload that a killed process left. A missing file is not an error."""
    (images_dir / image_id).unlink(missing_ok=True)
    (images_dir / f"{image_id}.part").unlink(missing_ok=True)


LISTED_TO_ALL = ("public",)
SHOWN_TO_ALL = ("public", "community")

COLUMNS: Mapping[str, Any] = {
    "id": Image.id,
    "name": Image.name,
    "status": Image.status,
    "owner": Image.owner,
    "container_format": Image.container_format,
    "disk_format": Image.disk_format,
    "checksum": Image.checksum,
    "os_hash_value": Image.hash_value,
    "size": Image.size_bytes,
    "min_disk": Image.min_disk_gib,
    "min_ram": Image.min_ram_mib,
    "created_at": Image.created_at,
    "updated_at": Image.updated_at,
}
"""Columns by Glance's attributes for filters and sort keys."""


class ImageStore:
    """The images. A private image of another project does not exist for a requester (NotFound)."""

    def __init__(self, store: Store, images_dir: Path, limits: ImageLimits | None = None) -> None:
        self._store = store
        self._dir = images_dir
        self._meter = UploadMeter(limits or ImageLimits(), images_dir)

    def get(self, image_id: str, requester: Requester) -> nouns.Image:
        with self._store.read() as session:
            return image_value(_visible(session, image_id, requester))

    def create(self, fields: Mapping[str, Any], image_id: str | None, requester: Requester) -> nouns.Image:
        """`fields` are columns. Raises Conflict for the id of another image, also of a deleted one, and PayloadTooLarge
        beyond the number of images of a project.
        """
        now = utc_now()
        row = Image(id=image_id or str(uuid.uuid4()), status="queued", created_at=now, updated_at=now, **fields)
        requester.authorize("add_image", row.owner)
        _check_publicity(row, requester)
        try:
            with self._store.write() as session:
                if session.get(DeletedImage, row.id) is not None:
                    raise _taken(row.id)
                self._check_number(session, row.owner)
                session.add(row)
                session.flush()
                assign_ec2_number(session, EC2_IMAGE, row.id)
        except IntegrityError as error:
            raise _taken(row.id) from error
        return image_value(row)

    def _check_number(self, session: Session, project_id: str) -> None:
        limit = self._meter.limits.images_of_project
        owned = sa.select(sa.func.count()).select_from(Image).where(Image.owner == project_id)
        if limit != UNLIMITED and session.execute(owned).scalar_one() >= limit:
            raise PayloadTooLarge(f"The project has its limit of {limit} images (image_count_total).")

    def update(
        self, image_id: str, change: Callable[[nouns.Image], Mapping[str, Any]], requester: Requester
    ) -> nouns.Image:
        """`change` gets the image and returns the columns to change."""
        with self._store.write() as session:
            row = _owned(session, image_id, requester, "modify_image")
            was_public = row.visibility == "public"
            for name, value in change(image_value(row)).items():
                setattr(row, name, value)
            if not was_public:
                _check_publicity(row, requester)
            row.updated_at = utc_now()
        return image_value(row)

    def delete(self, image_id: str, requester: Requester) -> None:
        """Raises Forbidden for a protected image. Servers of the image keep running."""
        with self._store.write() as session:
            row = _owned(session, image_id, requester, "delete_image")
            if row.protected:
                raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
            session.add(DeletedImage(id=row.id, deleted_at=utc_now()))
            session.delete(row)
        remove_data(self._dir, image_id)

    def begin_upload(self, image_id: str, requester: Requester) -> Upload:
        """Begins an upload, which the caller ends by `finish` or `abort`. Raises Conflict unless the image is queued."""
        with self._store.write() as session:
            row = _owned(session, image_id, requester, "upload_image")
            if row.status != "queued":
                raise Conflict(f"Image status transition from {row.status} to saving is not allowed")
            if row.container_format is None or row.disk_format is None:
                raise BadRequest("disk_format", "disk_format and container_format must be set before data is uploaded")
            row.status = "saving"
            owner = row.owner
        return Upload(self._store, self._dir, image_id, meter=self._meter, owner=owner)

    def data(self, image_id: str, requester: Requester) -> Path | None:
        """The file with the data of the image. None if the image has no data."""
        with self._store.read() as session:
            row = _visible(session, image_id, requester)
            status = row.status
        path = self._dir / image_id
        return path if status == "active" and path.is_file() else None

    def list(self, query: nouns.ImageQuery) -> list[nouns.Image]:
        with self._store.read() as session:
            found = [image_value(row) for row in session.scalars(_statement(query))]
        return [image for image in found if _fits(image, query)]


def image_value(row: Image) -> nouns.Image:
    return nouns.Image(
        id=row.id,
        owner=row.owner,
        name=row.name,
        status=row.status,
        visibility=row.visibility,
        container_format=row.container_format,
        disk_format=row.disk_format,
        min_disk_gib=row.min_disk_gib,
        min_ram_mib=row.min_ram_mib,
        size_bytes=row.size_bytes,
        checksum=row.checksum,
        hash_algo=row.hash_algo,
        hash_value=row.hash_value,
        protected=row.protected,
        hidden=row.hidden,
        properties=dict(row.properties),
        tags=tuple(row.tags),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _taken(image_id: str) -> Conflict:
    return Conflict(f"Image ID {image_id} already exists!")


def _visible(session: Session, image_id: str, requester: Requester) -> Image:
    row = session.get(Image, image_id)
    if row is None or not (requester.is_admin or row.owner == requester.project_id or row.visibility in SHOWN_TO_ALL):
        raise NotFound(f"No image found with ID {image_id}")
    return row


def _owned(session: Session, image_id: str, requester: Requester, action: str) -> Image:
    row = _visible(session, image_id, requester)
    if not requester.is_admin and row.owner != requester.project_id:
        raise Forbidden(f"Image {image_id} belongs to another project: you are not permitted to change it.")
    requester.authorize(action, row.owner)
    return row


def _check_publicity(row: Image, requester: Requester) -> None:
    if row.visibility == "public" and not requester.caller.may("publicize_image", row.owner):
        raise Forbidden(
            "You are not authorized to complete publicize_image action: only an administrator makes images public."
        )


def _statement(query: nouns.ImageQuery) -> sa.Select[Any]:
    statement = sa.select(Image).where(Image.hidden == query.hidden)
    if not query.all_projects:
        to_all = SHOWN_TO_ALL if query.visibility == "community" else LISTED_TO_ALL
        statement = statement.where(sa.or_(Image.owner == query.project_id, Image.visibility.in_(to_all)))
    elif query.visibility is None:
        statement = statement.where(sa.or_(Image.owner == query.project_id, Image.visibility != "community"))
    if query.visibility not in {None, "all"}:
        statement = statement.where(Image.visibility == query.visibility)
    if query.protected is not None:
        statement = statement.where(Image.protected == query.protected)
    for name, values in query.equal.items():
        statement = statement.where(COLUMNS[name].in_(values))
    return statement.order_by(*_order(query))


def _order(query: nouns.ImageQuery) -> list[Any]:
    order: list[Any] = []
    for name, descending in query.sort or (("created_at", True),):
        if name not in COLUMNS:
            raise BadRequest("sort", f"images cannot be sorted by {name}; use one of {', '.join(COLUMNS)}")
        order.append(COLUMNS[name].desc() if descending else COLUMNS[name].asc())
    return [*order, Image.id.desc()]


def _fits(image: nouns.Image, query: nouns.ImageQuery) -> bool:
    size = image.size_bytes or 0
    return (
        set(query.tags) <= set(image.tags)
        and all(image.properties.get(name) == value for name, value in query.properties.items())
        and (query.size_min is None or size >= query.size_min)
        and (query.size_max is None or size <= query.size_max)
    )
