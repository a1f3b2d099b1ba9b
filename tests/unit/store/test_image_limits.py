"""The limits of images: no project can fill the disk by uploads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openimds.resources.caller import ALL_RIGHTS
from openimds.resources.compute import Requester
from openimds.resources.errors import PayloadTooLarge
from openimds.store.engine import Store
from openimds.store.image import UNLIMITED, ImageLimits, ImageStore

WHO = Requester(user_id="u", project_id="p", request_id="req-1", rights=ALL_RIGHTS)
OPEN = {"images_of_project": UNLIMITED, "bytes_of_project": UNLIMITED, "reserved_bytes": 0}
FIELDS = {"owner": "p", "visibility": "private", "tags": [], "container_format": "bare", "disk_format": "raw"}


class Images:
    def __init__(self, store: Store, folder: Path, **limits: int) -> None:
        self.folder = folder
        self.store = ImageStore(store, folder, ImageLimits(**OPEN | limits))

    def new(self) -> str:
        return self.store.create(FIELDS, None, WHO).id

    def upload(self, image_id: str, *chunks: bytes, expected: int = 0) -> None:
        upload = self.store.begin_upload(image_id, WHO)
        try:
            upload.expect(expected)
            for chunk in chunks:
                upload.write(chunk)
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def assert_is_queued(self, image_id: str) -> None:
        assert self.store.get(image_id, WHO).status == "queued"
        assert list(self.folder.glob(f"{image_id}*")) == []


def test_upload_beyond_the_size_cap_leaves_nothing(store: Store, tmp_path: Path) -> None:
    images = Images(store, tmp_path / "images", image_bytes=100)
    image = images.new()
    with pytest.raises(PayloadTooLarge, match="image_size_cap"):
        images.upload(image, b"x" * 60, b"x" * 60)
    images.assert_is_queued(image)
    images.upload(image, b"x" * 60, b"x" * 40)


def test_announced_size_beyond_the_cap_is_refused_before_the_data(store: Store, tmp_path: Path) -> None:
    images = Images(store, tmp_path / "images", image_bytes=100)
    image = images.new()
    with pytest.raises(PayloadTooLarge, match="image_size_cap"):
        images.upload(image, expected=101)
    images.assert_is_queued(image)


def test_number_of_images_of_a_project_is_limited(store: Store, tmp_path: Path) -> None:
    images = Images(store, tmp_path / "images", images_of_project=2)
    first, _ = images.new(), images.new()
    with pytest.raises(PayloadTooLarge, match="image_count_total"):
        images.new()
    images.store.delete(first, WHO)
    images.new()


def test_stored_and_unfinished_images_of_a_project_count_together(store: Store, tmp_path: Path) -> None:
    images = Images(store, tmp_path / "images", bytes_of_project=100)
    images.upload(images.new(), b"x" * 40)
    second, third = images.new(), images.new()
    running = images.store.begin_upload(second, WHO)
    running.write(b"x" * 40)
    with pytest.raises(PayloadTooLarge, match="image_size_total"):
        images.upload(third, b"x" * 30)
    images.assert_is_queued(third)
    waiting = images.store.begin_upload(third, WHO)
    running.finish()
    with pytest.raises(PayloadTooLarge, match="image_size_total"):
        waiting.write(b"x" * 30)
    waiting.abort()
    images.store.delete(second, WHO)
    images.upload(third, b"x" * 30)


def test_upload_cannot_take_the_reserve_of_the_disk(store: Store, tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    free = space.f_bavail * space.f_frsize
    images = Images(store, tmp_path / "images", reserved_bytes=2 * free)
    image = images.new()
    with pytest.raises(PayloadTooLarge, match="not enough disk space"):
        images.upload(image, b"x")
    images.assert_is_queued(image)
