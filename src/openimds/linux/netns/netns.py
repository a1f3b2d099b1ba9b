"""Network namespaces, where `ip netns` keeps them (/run/netns), and work done inside one.

Entering is a block on a thread that is discarded: the calling thread never changes its namespace, so no failure can
leave the process in the wrong one. What the thread opens (sockets, netlink) stays in the namespace; what it starts
(processes) begins there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from openimds.linux.errors import ConfigureError

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MS_BIND, MNT_DETACH = 0x1000, 0x2

SOCKSTAT = (Path("/proc/thread-self/net/sockstat"), Path("/proc/thread-self/net/sockstat6"))

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


class NamespaceMissingError(Exception):
    """There is no namespace of this name."""


def namespace_path(name: str) -> Path:
    return NETNS_DIR / name


def exists(name: str) -> bool:
    return identity(name) is not None


def list_names() -> set[str]:
    try:
        return set(os.listdir(NETNS_DIR))
    except FileNotFoundError:
        return set()


def identity(name: str) -> tuple[int, int] | None:
    """Device and inode of a namespace: what tells it from a later one of the same name. None: there is none.

    After a crash a plain file without a mount may be left: it lies on the tmpfs, not on nsfs, and is no namespace.
    """
    try:
        status = os.stat(f"{NETNS_DIR}/{name}")
        folder = os.stat(NETNS_DIR)
    except FileNotFoundError:
        return None
    if status.st_dev == folder.st_dev:
        return None
    return status.st_dev, status.st_ino


def current_identity() -> tuple[int, int]:
    """Of the namespace that the calling thread is in."""
    status = os.stat("/proc/thread-self/ns/net")
    return status.st_dev, status.st_ino


def run_in(name: str, work: Callable[[], _Result], only: tuple[int, int] | None = None) -> _Result:
    """Do `work` on a new thread that has entered the namespace; its result or its exception.

    Raises NamespaceMissingError when there is no such namespace, or it is not the one with the identity `only`.
    """

    def inside() -> _Result:
        enter(name)
        if only is not None and current_identity() != only:
            raise NamespaceMissingError(f"{name} is another network namespace than it was")
        return work()

    return _run_on_thread(f"in {name}", inside)


def _run_on_thread(thread_name: str, work: Callable[[], _Result]) -> _Result:
    """A new one, whose end is waited for."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name=thread_name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def enter(name: str) -> None:
    """Moves the calling thread for good: only for one that ends soon. Raises NamespaceMissingError."""
    try:
        descriptor = os.open(NETNS_DIR / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NamespaceMissingError(f"there is no network namespace {name}") from error
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise NamespaceMissingError(f"cannot enter the network namespace {name}: {os.strerror(code)}")
    finally:
        os.close(descriptor)


def create(name: str) -> bool:
    """What `ip netns add` does (ip-netns(8)), without a process. Raises OSError; FileExistsError when there is one.

    False: nothing was made, for /run/netns is no mount of its own yet, which `ip netns add` makes it for good.
    """
    if not _is_mount(NETNS_DIR):
        return False
    path = NETNS_DIR / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    try:
        _run_on_thread("make", lambda: _bind_new_namespace(path))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def delete(name: str) -> None:
    """What `ip netns delete` does: the namespace ends with the last that uses it. Idempotent. Raises OSError."""
    path = NETNS_DIR / name
    _libc.umount2(os.fsencode(path), MNT_DETACH)  # it fails where a crash left a plain file
    path.unlink(missing_ok=True)


def _bind_new_namespace(path: Path) -> None:
    _check_result(_libc.unshare(CLONE_NEWNET), "make a network namespace")
    own = b"/proc/thread-self/ns/net"
    _check_result(_libc.mount(own, os.fsencode(path), b"none", MS_BIND, None), f"mount a network namespace at {path}")


def _check_result(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {what}: {os.strerror(code)}")


def _is_mount(folder: Path) -> bool:
    """Also one of the same file system on itself, which st_dev does not tell."""
    try:
        return _mount_id(folder) != _mount_id(folder.parent)
    except FileNotFoundError:
        return False


def _mount_id(path: Path) -> str:
    """proc_pid_fdinfo(5)"""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    return next(line for line in told.splitlines() if line.startswith("mnt_id:"))


def has_sockets(name: str) -> bool:
    """Whether anybody has an internet socket there: of whatever family and kind, listening or not. Quick also where a
    thousand processes run, unlike `processes_in`.
    """
    try:
        return run_in(name, lambda: any(_counts_sockets(line) for file in SOCKSTAT for line in _read_lines(file)))
    except NamespaceMissingError:
        return False


def _counts_sockets(line: str) -> bool:
    """`TCP: inuse 3 orphan 0 …`, `RAW6: inuse 1`; the first line of all counts other families' too."""
    words = line.split()
    return words[1:2] == ["inuse"] and words[2] != "0" and not words[0].startswith("FRAG")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:  # no IPv6 in this kernel
        return []


def processes_in(*names: str) -> set[int]:
    """Processes whose network namespace is one of these (this process's own threads are not counted)."""
    wanted = {identity(name) for name in names} - {None}
    if not wanted:
        return set()
    return {pid for pid in _all_pids() if _netns_identity(pid) in wanted}


def process_is_in(pid: int, name: str) -> bool:
    wanted = identity(name)
    return wanted is not None and _netns_identity(pid) == wanted


def kill_processes_in(*names: str, grace_seconds: float = 1.0) -> None:
    """SIGTERM, then SIGKILL to what still runs in these namespaces. Raises WiringError when something outlives both."""
    for sent, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        remaining = processes_in(*names)
        if not remaining:
            return
        _signal_all(remaining, sent)
        if _wait_gone(names, seconds):
            return
    left = ", ".join(str(pid) for pid in sorted(processes_in(*names)))
    if left:
        raise ConfigureError(", ".join(names), [f"these processes do not end: {left}"])


def _signal_all(pids: Iterable[int], sent: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, sent)
        except ProcessLookupError:
            continue


def _wait_gone(names: Sequence[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_in(*names):
            return True
        time.sleep(0.01)
    return not processes_in(*names)


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _netns_identity(pid: int) -> tuple[int, int] | None:
    """A zombie has none any more, and so is not counted."""
    try:
        status = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return None
    return status.st_dev, status.st_ino
