"""Namespaces made, and emptied of their devices."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from openimds.linux import sysctl
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.errors import ProgramError
from openimds.linux.netlink.links import Link, all_links, delete_link, host_end, link_named, set_link
from openimds.linux.netns import netns
from openimds.linux.process.daemons import run

HOLDER_SECONDS = 5.0
IDS_OF_A_USER_NAMESPACE = 65536


def create_namespace(name: str, ledger: OwnershipRecord, owner_uid: int | None = None) -> None:
    """With its loopback up; `owner_uid` as in NamespaceState. Raises ProgramError, OSError.

    A mount point that a crash left behind is cleared first.
    """
    ledger.note("netns", name)
    if name in netns.all_names() and not netns.exists(name):
        netns.take_name(name)
    if owner_uid is None:
        if not netns.make(name):
            run(["ip", "netns", "add", name])
    else:
        _create_owned(name, owner_uid)

    def prepare() -> None:
        loopback = link_named("lo")
        if loopback is not None:
            set_link(loopback.index, up=True)
        # Without it the kernel takes all other addresses of a subnet away with the first one.
        sysctl.write_sysctl("net.ipv4.conf.all.promote_secondaries", "1")

    netns.run_in(name, prepare)


def _create_owned(name: str, owner_uid: int) -> None:
    """In a new user namespace, where no further ones can be made: an instance's programs need none."""
    own = os.readlink("/proc/self/ns/net")
    holder = subprocess.Popen(["unshare", "--user", "--net", "--", "sleep", "60"])
    try:
        deadline = time.monotonic() + HOLDER_SECONDS
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if holder.poll() is not None or time.monotonic() > deadline:
                raise ProgramError("unshare", "cannot make a user namespace: is user.max_user_namespaces 0?")
            time.sleep(0.001)
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{which}").write_text(f"0 {owner_uid} {IDS_OF_A_USER_NAMESPACE}")
        limit = "echo 0 > /proc/sys/user/max_user_namespaces"
        run(["nsenter", f"--user=/proc/{holder.pid}/ns/user", "--", "sh", "-c", limit])
        run(["ip", "netns", "attach", name, str(holder.pid)])
    finally:
        holder.kill()
        holder.wait()


def delete_veths(namespace: str, only: str | None = None) -> list[str]:
    """The host's names of the pairs that are gone. Deleting either end takes both, at once; left to the namespace's
    own end the kernel would do it some time later.
    """

    def inner() -> list[Link]:
        return [link for link in all_links() if link.kind == "veth" and only in (None, link.name)]

    def delete() -> None:
        for link in found:
            delete_link(link.index)

    found = netns.run_in(namespace, inner)
    hosts = [host_end(link) for link in found]
    netns.run_in(namespace, delete)
    return [host.name for host in hosts if host is not None]
