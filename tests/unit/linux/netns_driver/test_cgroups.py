"""The files of cgroups that limit a guest, on a copy of the kernel's folders."""

from __future__ import annotations

from pathlib import Path

from openimds.linux.netns_driver.cgroups import GuestCgroups

MIB = 1024 * 1024


def mounts(folder: Path, *lines: str) -> Path:
    file = folder / "mounts"
    file.write_text("".join(f"{line}\n" for line in ("proc /proc proc rw 0 0", *lines)))
    return file


def unified(folder: Path, controllers: str) -> Path:
    """A mount of cgroup2. The kernel creates the files of the system's own cgroup with it."""
    point = folder / "unified"
    point.mkdir()
    (point / "cgroup.controllers").write_text(controllers)
    (point / "cgroup.subtree_control").write_text("")
    own = point / "openimds_lab1"
    own.mkdir()
    (own / "cgroup.subtree_control").write_text("")
    return point


def test_v2_enables_the_controllers_for_the_guests_and_not_in_a_cgroup_with_processes(tmp_path: Path) -> None:
    point = unified(tmp_path, "cpuset cpu io memory pids\n")
    groups = GuestCgroups("lab1-", mounts(tmp_path, f"cgroup2 {point} cgroup2 rw 0 0"))
    assert groups.missing == ()
    assert groups.create("vm1", memory_bytes=64 * MIB, processes=10) == (point / "openimds_lab1/vm1/cgroup.procs",)
    assert (point / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert (point / "openimds_lab1/cgroup.subtree_control").read_text() == "+memory +pids"
    assert groups.names() == {"vm1"}


def test_controllers_of_v1_are_used_before_an_empty_v2(tmp_path: Path) -> None:
    point = unified(tmp_path, "\n")
    memory, pids = tmp_path / "memory", tmp_path / "pids"
    memory.mkdir()
    pids.mkdir()
    lines = [
        f"cgroup {memory} cgroup rw,relatime,memory 0 0",
        f"cgroup {pids} cgroup rw,pids 0 0",
        f"cgroup {tmp_path} cgroup rw,cpu,cpuacct 0 0",
    ]
    groups = GuestCgroups("lab1-", mounts(tmp_path, *lines, f"cgroup2 {point} cgroup2 rw 0 0"))
    joined = groups.create("vm1", memory_bytes=64 * MIB, processes=10)
    assert joined == (memory / "openimds_lab1/vm1/cgroup.procs", pids / "openimds_lab1/vm1/cgroup.procs")


def test_missing_controllers_are_named_and_guests_start_without_them(tmp_path: Path) -> None:
    groups = GuestCgroups("", mounts(tmp_path))
    assert groups.missing == ("memory", "pids")
    assert groups.create("vm1", memory_bytes=64 * MIB, processes=10) == ()
    assert groups.names() == set()
    groups.remove("vm1")
    assert groups.remove_all({"vm1"}) == ()
