"""A system on a small file system of its own, which its guests fill, and the files and descriptors that others can reach."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud, run
from tests.system.cloud import shown as command_lines
from tests.system.conftest import unstarted_cloud
from tests.waiting import until

MIB = 1024 * 1024
SIZE_MIB = 1536
RESERVE_MIB = 512
STRANGER = 54321
"""A user id without files, groups and processes."""


@pytest.fixture(scope="module")
def cloud(only_root: None) -> Iterator[Cloud]:
    """The state folder is a mount point of a file system of 1.5 GiB."""
    new = unstarted_cloud()
    image = new.state_dir.with_suffix(".img")
    new.state_dir.mkdir()
    run(["truncate", f"--size={SIZE_MIB}M", str(image)])
    run(["mkfs.ext4", "-q", "-m", "0", str(image)])
    run(["mount", "-oloop", str(image), str(new.state_dir)])
    try:
        new.up()
        yield new
        done = new.openimds("down", "--purge")
        assert f"{new.state_dir} is a mount point" in done.stdout
        assert {path.name for path in new.state_dir.iterdir()} <= {"lost+found"}
    finally:
        run(["umount", "--lazy", str(new.state_dir)], check=False)
        new.remove()


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> Network:
    api = ApiClient(cloud)
    made = api.network("private", "192.168.40.0/24")
    api.router("r", made)
    return made


def boot(cloud: Cloud, network: Network, name: str) -> str:
    return ApiClient(cloud).server(name, network, flavor="m1.nano")


def shown(cloud: Cloud, server_id: str) -> Any:
    return ApiClient(cloud).get("compute", f"/servers/{server_id}")["server"]


def delete(cloud: Cloud, server_id: str) -> None:
    ApiClient(cloud).delete("compute", f"/servers/{server_id}")


def reachable(path: Path) -> bool:
    """Whether this process can list a folder, read a file or connect to a socket."""
    try:
        kind = path.lstat().st_mode
        if stat.S_ISSOCK(kind):
            return any(connects(path, socket_type) for socket_type in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        if stat.S_ISDIR(kind):
            list(path.iterdir())
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return False
    return True


def connects(path: Path, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def reached_by_a_stranger(paths: list[Path]) -> list[str]:
    """The paths that a process of an unprivileged user can reach."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        with os.fdopen(write_end, "w") as output:
            output.writelines(f"{path}\n" for path in paths if reachable(path))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        found = lines.read().splitlines()
    os.waitpid(child, 0)
    return found


def test_other_users_of_the_host_reach_nothing_in_the_state_folder(cloud: Cloud, network: Network) -> None:
    """Images, the options of dnsmasq, PID files and the ids of instances were readable by every local user."""
    server = boot(cloud, network, "vm1")
    cloud.wait_booted(server, "vm1")
    paths = [path for path in cloud.state_dir.rglob("*") if path.name != "lost+found"]
    names = {path.relative_to(cloud.state_dir).parts[0] for path in paths}
    assert {"images", "dhcp", "instances", "run", "etc", "owned", "openimds.sqlite", "metadata_proxy"} <= names
    assert any(path.name == "opts" for path in paths)
    assert reached_by_a_stranger([cloud.state_dir, *paths]) == []
    delete(cloud, server)


def daemons(cloud: Cloud) -> list[int]:
    """The processes of dnsmasq and HAProxy."""
    folders = tuple(f"{cloud.state_dir}/{name}/" for name in ("dhcp", "ns-metadata-proxy"))
    lines = [line.split(maxsplit=1) for line in cloud_processes()]
    return [
        int(pid)
        for pid, words in lines
        if words.startswith(("dnsmasq", "haproxy")) and any(each in words for each in folders)
    ]


def cloud_processes() -> list[str]:
    return command_lines("ps", "-wweo", "pid,args", "--no-headers")


def test_daemons_inherit_nothing_of_an_agent(cloud: Cloud, network: Network) -> None:
    cloud.choose_metadata_proxy("haproxy")
    try:
        pids = until(lambda: daemons(cloud) if len(daemons(cloud)) > 1 else [], "dnsmasq and HAProxy run")
        for pid in pids:
            variables = {
                entry.partition(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry
            }
            assert variables <= {b"PATH", b"LC_ALL", b"PWD", b"SHLVL", b"_"}, Path(f"/proc/{pid}/cmdline").read_text()
            targets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            foreign = [path for path in targets if path.startswith(str(cloud.state_dir)) and "/leases" not in path]
            assert foreign == []
            assert not [path for path in targets if path.startswith(("net:", "user:", "mnt:"))]
    finally:
        cloud.choose_metadata_proxy("direct")


def free_mib(cloud: Cloud) -> int:
    space = os.statvfs(cloud.state_dir)
    return space.f_bavail * space.f_frsize // MIB


def test_guests_cannot_take_the_reserve_and_a_full_disk_does_not_prevent_deletions(
    cloud: Cloud, network: Network
) -> None:
    api = ApiClient(cloud)
    servers = [boot(cloud, network, f"vm{number}") for number in range(6)]
    until(lambda: any(shown(cloud, server)["status"] == "ERROR" for server in servers), "a disk does not fit")
    until(lambda: all(shown(cloud, server)["status"] in {"ERROR", "ACTIVE"} for server in servers), "all are decided")
    full = [server for server in servers if shown(cloud, server)["status"] == "ERROR"]
    assert "no space for a disk" in shown(cloud, full[0])["fault"]["message"]
    running = [server for server in servers if server not in full]
    assert running
    before = free_mib(cloud)
    for server in running:
        pid = (cloud.state_dir / "instances" / server / "boot.pid").read_text().split()[0]
        fill = "head -c 250M /dev/zero >/root/fill; head -c 250M /dev/zero >/root/more; sync"
        run(["nsenter", f"--target={pid}", "--user", "--mount", "--pid", "--root", "sh", "-c", fill], check=False)
    assert free_mib(cloud) >= before - 8
    assert free_mib(cloud) >= RESERVE_MIB - 32
    api.network("another", "192.168.41.0/24")
    # Another program takes almost everything that the guests left.
    foreign = cloud.state_dir / "foreign"
    run(["fallocate", f"--length={(free_mib(cloud) - 6) * MIB}", str(foreign)])
    try:
        assert free_mib(cloud) < 8
        for server in servers:
            delete(cloud, server)
        instances = cloud.state_dir / "instances"
        until(lambda: list(instances.iterdir()) == [], lambda: cloud.log("compute-agent")[-2000:])
    finally:
        foreign.unlink()
