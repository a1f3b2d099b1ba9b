"""The user namespaces of a guest's network namespace, and what the kernel permits to the guest."""

from __future__ import annotations

import contextlib
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from openimds.linux.errors import ProgramError
from openimds.linux.process.daemons import run

USER_NAMESPACE_IDS = 65536
GUEST_KERNEL_LIMITS = {
    "max_user_namespaces": 0,
    **{f"max_{kind}_namespaces": 32 for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "uts")},
    "max_inotify_instances": 128,
    "max_inotify_watches": 8192,
    "max_fanotify_groups": 16,
    "max_fanotify_marks": 8192,
}
"""The limits of a guest, of all of its users together, in `/proc/sys/user`."""
_AS_CREATOR = ("setpriv", "--clear-groups", "--inh-caps=-all,+sys_admin", "--ambient-caps=-all,+sys_admin")
"""CAP_SYS_ADMIN creates a user namespace also on a host that refuses it to unprivileged users (AppArmor)."""
_WRITE_MAPS_AND_LIMITS = """
for map in uid_map gid_map; do echo "$2" >"/proc/$1/$map" || exit 1; done
shift 2
while [ $# -gt 0 ]; do
    ! [ -e "/proc/sys/user/$1" ] || echo "$2" >"/proc/sys/user/$1" || exit 1
    shift 2
done
"""
"""A kernel before 5.13 does not count fanotify, and one before 5.6 has no time namespaces."""


def create_in_user_namespace(name: str, owner_uid: int) -> None:
    """Creates the namespace in a user namespace whose parent, a user namespace too, has the limits of the guest.

    The kernel counts what a guest creates for the creator of each user namespace, up to the host's. The guest has no
    capability in the parent, so its root cannot raise the limits. The creator of the parent is a user of the guest's
    range and not root of the host, so no guest uses up what the kernel permits to the host's programs.
    """
    creator = str(owner_uid + zlib.crc32(name.encode()) % USER_NAMESPACE_IDS)
    with _namespace_holder([*_AS_CREATOR, f"--reuid={creator}", f"--regid={creator}", "unshare", "--user"]) as outer:
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{outer}/{which}").write_text(f"0 {owner_uid} {USER_NAMESPACE_IDS}")
        in_outer = ["nsenter", f"--user=/proc/{outer}/ns/user", "--"]
        with _namespace_holder([*in_outer, "unshare", "--user", "--net"]) as inner:
            limits = [word for limit in GUEST_KERNEL_LIMITS.items() for word in map(str, limit)]
            run([*in_outer, "sh", "-c", _WRITE_MAPS_AND_LIMITS, "sh", str(inner), f"0 0 {USER_NAMESPACE_IDS}", *limits])
            run(["ip", "netns", "attach", name, str(inner)])


@contextlib.contextmanager
def _namespace_holder(unshare: Sequence[str]) -> Iterator[int]:
    """Runs a process in the namespaces that the command creates, and yields its pid. Raises ProgramError."""
    argv = [*unshare, "--", "sh", "-c", "echo && exec sleep 60"]
    holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise ProgramError(
                "unshare",
                "cannot create a user namespace; check that user.max_user_namespaces and "
                "kernel.unprivileged_userns_clone (if it exists) are not 0",
            )
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()
