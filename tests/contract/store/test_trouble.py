"""Full disks, read-only folders and held locks: the error is reported, and no data is corrupted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.databases import migrated_store

from openimds.resources.caller import ALL_RIGHTS
from openimds.resources.compute import Requester
from openimds.resources.errors import PayloadTooLarge, StoreUnavailable
from openimds.store import engine, schema
from openimds.store.engine import Store, utc_now
from openimds.store.image import MIB, UNLIMITED, ImageLimits, ImageStore, Upload
from openimds.store.models.image import Image

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small file system")


def add_image(store: Store, number: int, padding: int = 0) -> None:
    with store.write() as session:
        session.add(
            Image(
                id=str(number),
                owner="p",
                properties={"padding": "x" * padding},
                created_at=utc_now(),
                updated_at=utc_now(),
            )
        )


def images(store: Store) -> int:
    with store.read() as session:
        return session.execute(sa.select(sa.func.count()).select_from(Image)).scalar_one()


def fill(store: Store) -> int:
    """Adds images until the disk is full. Returns the number of images."""
    for number in range(1000):
        try:
            add_image(store, number, padding=50_000)
        except StoreUnavailable as error:
            if "full" not in error.message:
                raise
            return number
    raise AssertionError("the disk was never full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "openimds-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@NEEDS_ROOT
def test_full_disk_is_reported_and_corrupts_nothing(small_disk: Path) -> None:
    store = Store(f"sqlite:///{small_disk}/s.sqlite")
    schema.upgrade(store)
    kept = fill(store)
    assert 5 < kept < 200
    assert images(store) == kept  # confirmed writes are stored, rejected writes are not
    with store.read() as session:
        assert session.scalar(sa.text("PRAGMA integrity_check")) == "ok"
    store.close()
    os.sync()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    add_image(store, 5000, padding=50_000)
    assert images(store) == kept + 1
    store.close()


@NEEDS_ROOT
def test_read_only_folder_is_reported(small_disk: Path) -> None:
    store = Store(f"sqlite:///{small_disk}/s.sqlite")
    schema.upgrade(store)
    add_image(store, 1)
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for attempt in (lambda: add_image(store, 2), lambda: images(store), lambda: schema.upgrade(store)):
        with pytest.raises(StoreUnavailable, match="this user may write to it"):
            attempt()
    with pytest.raises(StoreUnavailable):
        schema.upgrade(Store(f"sqlite:///{small_disk}/new/s.sqlite"))
    store.close()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    add_image(store, 2)
    assert images(store) == 2
    store.close()


def test_lock_that_is_held_too_long_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.2)
    store = Store(f"sqlite:///{tmp_path}/s.sqlite")
    schema.upgrade(store)
    holder = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        add_image(store, 1)
    assert images(store) == 0  # readers do not mind
    holder.execute("ROLLBACK")
    holder.close()
    add_image(store, 1)
    store.close()


def test_database_without_tables_is_reported(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/s.sqlite")
    with pytest.raises(StoreUnavailable, match="no such table"):
        images(store)
    store.close()


def test_unreachable_server_is_reported_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra openimds[postgresql] is not installed")
    store = Store(f"postgresql+psycopg://openimds:secret@/openimds?host={tmp_path}")
    with pytest.raises(StoreUnavailable) as caught:
        images(store)
    said = caught.value.message
    assert "secret" not in said
    assert "check that the server runs, accepts connections there and has this user and database" in said
    assert "[database] connection says where" in said
    store.close()


WHO = Requester(user_id="u", project_id="p", request_id="req-1", rights=ALL_RIGHTS)
FIELDS = {"owner": "p", "visibility": "private", "tags": [], "container_format": "bare", "disk_format": "raw"}


def image_store(store: Store, disk: Path, reserved_bytes: int) -> ImageStore:
    limits = ImageLimits(images_of_project=UNLIMITED, bytes_of_project=UNLIMITED, reserved_bytes=reserved_bytes)
    return ImageStore(store, disk / "images", limits)


def fill_disk(disk: Path) -> None:
    """Another file takes all free space."""
    with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while other.write(b"x" * 4096):
            pass
    assert os.statvfs(disk).f_bavail == 0


def upload_without_end(upload: Upload) -> None:
    for _ in range(256):
        upload.write(b"x" * 65536)


@NEEDS_ROOT
def test_store_commits_and_images_are_deleted_on_a_disk_that_uploads_filled_up_to_the_reserve(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    store = migrated_store(small_disk)
    images = image_store(store, small_disk, reserved_bytes=4 * MIB)
    kept, large = (images.create(FIELDS, None, WHO).id for _ in range(2))
    first = images.begin_upload(kept, WHO)
    first.write(b"x" * MIB)
    first.finish()
    upload = images.begin_upload(large, WHO)
    with pytest.raises(PayloadTooLarge, match="not enough disk space"):
        upload_without_end(upload)
    space = os.statvfs(small_disk)
    assert 4 * MIB <= space.f_bavail * space.f_frsize < 5 * MIB
    add_image(store, 1, padding=50_000)
    images.delete(kept, WHO)
    upload.abort()
    assert images.get(large, WHO).status == "queued"
    assert list((small_disk / "images").iterdir()) == []
    store.close()


@NEEDS_ROOT
def test_aborted_upload_on_a_full_disk_leaves_no_data_and_a_queued_image(small_disk: Path, tmp_path: Path) -> None:
    store = migrated_store(tmp_path)
    images = image_store(store, small_disk, reserved_bytes=0)
    image = images.create(FIELDS, None, WHO).id
    upload = images.begin_upload(image, WHO)
    upload.write(b"x" * 100)
    fill_disk(small_disk)
    upload.abort()
    assert images.get(image, WHO).status == "queued"
    assert list((small_disk / "images").iterdir()) == []
    store.close()
