"""A folder is removed whatever a guest has created in it."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openimds.linux.tree_removal import FS_APPEND_FL, FS_IMMUTABLE_FL, FS_IOC_SETFLAGS, remove_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def nest(top: Path, depth: int) -> None:
    """Creates nested folders. The path of the deepest one is longer than PATH_MAX."""
    folder = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_deeply_nested_folders_are_removed_with_few_descriptors(tmp_path: Path) -> None:
    """6,000 nested folders made a server undeletable, with RecursionError."""
    top = tmp_path / "top"
    top.mkdir()
    nest(top, 6000)
    with few_descriptors(12):
        remove_tree(top)
    assert not top.exists()


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "wide").mkdir(parents=True)
    for number in range(20_000):
        (top / "wide" / f"{number:0100}").touch()
    tracemalloc.start()
    remove_tree(top)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not top.exists()
    assert peak < 1024 * 1024


def test_links_are_removed_and_their_targets_remain(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "inner").mkdir(parents=True)
    (target / "file").write_text("kept")
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "a" / "link").symlink_to(target)
    (top / "a" / "loop").symlink_to(top)
    os.link(target / "file", top / "a" / "hard")
    remove_tree(top)
    assert not top.exists()
    assert (target / "file").read_text() == "kept"
    link = tmp_path / "link"
    link.symlink_to(target)
    remove_tree(link)
    assert not link.is_symlink()
    assert (target / "inner").is_dir()


def test_sockets_fifos_and_odd_names_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for name in (b"-rf", b"new\nline", b"\xff\xfe", b"..a", b" ", b"x" * 255, b"*"):
        os.close(os.open(os.fsencode(top) + b"/" + name, os.O_CREAT))
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
        remove_tree(top)
    assert not top.exists()


def test_open_and_unreadable_files_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed").mkdir(parents=True)
    with (top / "closed" / "open").open("w") as file:
        file.write("x")
        remove_tree(top)
    assert not top.exists()


def test_missing_folder_is_removed_already(tmp_path: Path) -> None:
    remove_tree(tmp_path / "missing")


@needs_root
def test_immutable_and_append_only_files_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "folder" / "inner").mkdir(parents=True)
    (top / "folder" / "inner" / "file").touch()
    (top / "folder" / "log").touch()
    for name, flag in (
        ("folder/inner/file", FS_IMMUTABLE_FL),
        ("folder/inner", FS_IMMUTABLE_FL),
        ("folder/log", FS_APPEND_FL),
        ("folder", FS_APPEND_FL),
    ):
        descriptor = os.open(top / name, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flag))
        except OSError:
            pytest.skip("the file system has no attributes")
        finally:
            os.close(descriptor)
    remove_tree(top)
    assert not top.exists()


@needs_root
def test_mounts_below_are_unmounted_and_their_content_remains(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "inner").mkdir(parents=True)
    (foreign / "file").write_text("kept")
    top = tmp_path / "top"
    for point in ("a/b/mounted", "direct"):
        (top / point).mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(foreign), str(top / point)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(top / "direct" / "inner")], check=True)
    (top / "file").touch()
    subprocess.run(["mount", "--bind", str(foreign / "file"), str(top / "file")], check=True)
    remove_tree(top)
    assert not top.exists()
    assert (foreign / "file").read_text() == "kept"
    assert (foreign / "inner").is_dir()
    assert str(top) not in Path("/proc/mounts").read_text()


@needs_root
def test_mount_point_is_emptied_and_raises(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(top)], check=True)
    try:
        (top / "a" / "b").mkdir(parents=True)
        with pytest.raises(OSError, match="busy"):
            remove_tree(top)
        assert list(top.iterdir()) == []
    finally:
        subprocess.run(["umount", str(top)], check=True)
