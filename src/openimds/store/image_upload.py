"""An image's bytes on their way into its file: nothing is seen of them before all of them are there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from openimds.resources.errors import NotFound, StoreUnavailable
from openimds.store.engine import Store, utc_now
from openimds.store.models.image import Image

HASH_ALGO = "sha512"


class Upload:
    """Bytes go to `<id>.part`; `finish` renames it and makes the image active, `abort` leaves it queued, as before."""

    def __init__(self, store: Store, images_dir: Path, image_id: str) -> None:
        self._store = store
        self._dir = images_dir
        self._image_id = image_id
        self._part = images_dir / f"{image_id}.part"
        self._file: BinaryIO | None = None
        self._checksum = hashlib.md5(usedforsecurity=False)
        self._hash = hashlib.sha512()
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Raises StoreUnavailable when the disk does not take it."""
        try:
            if self._file is None:
                self._dir.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            self._file.write(chunk)
        except OSError as error:
            raise self._unavailable(error) from error
        self._checksum.update(chunk)
        self._hash.update(chunk)
        self._size += len(chunk)

    def finish(self) -> None:
        """Raises StoreUnavailable, or NotFound when the image was deleted meanwhile; nothing is left behind then."""
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

    def abort(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
        self._part.unlink(missing_ok=True)
        with self._store.write() as session:
            row = session.get(Image, self._image_id)
            if row is not None and row.status == "saving":
                row.status = "queued"

    def _publish(self) -> None:
        """Under the write lock, so that the file is the data of the image whose row becomes active."""
        try:
            self._part.replace(self._dir / self._image_id)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"the image's data cannot be written to {self._part}: {error.strerror}; "
            "check that the disk is not full and that this user may write there"
        )


def remove_data(images_dir: Path, image_id: str) -> None:
    """Gone already is success."""
    (images_dir / image_id).unlink(missing_ok=True)
