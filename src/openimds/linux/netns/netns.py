"""Network namespaces in /run/netns, where `ip netns` keeps them.

A namespace is entered by a short-lived thread. The calling thread never changes its namespace, so no failure can leave
the process in the wrong one. Sockets that the thread opens stay in the namespace, and processes that it starts run
there.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MS_BIND, MNT_DETACH = 0x1000, 0x2

SOCKSTAT = (Path("/proc/thread-self/net/sockstat"), Path("/proc/thread-self/net/sockstat6"))

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


class NamespaceMissingError(Exception):
    """The namespace does not exist."""


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
    """Device and inode of a namespace, which distinguish it from a later one of the same name. None if it does not
    exist.

    A crash may leave a plain file without a mount. Such a file is on the tmpfs and not on nsfs, so it is not a
    namespace.
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
    """The identity of the calling thread's namespace."""
    status = os.stat("/proc/thread-self/ns/net")
    return status.st_dev, status.st_ino


def run_in(name: str, work: Callable[[], _Result], expected_identity: tuple[int, int] | None = None) -> _Result:
    """Runs `work` on a new thread inside the namespace, and returns its result or raises its exception.

    Raises NamespaceMissingError if the namespace does not exist, or if its identity is not `expected_identity`.
    """

    def inside() -> _Result:
        enter(name)
        if expected_identity is not None and current_identity() != expected_identity:
            raise NamespaceMissingError(f"{name} was replaced by another network namespace of the same name")
        return work()

    return _run_on_thread(f"in {name}", inside)


def _run_on_thread(thread_name: str, work: Callable[[], _Result]) -> _Result:
    """Runs `work` on a new thread and waits for the end."""
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
    """Moves the calling thread into the namespace. The thread must end soon. Raises NamespaceMissingError."""
    try:
        descriptor = os.open(NETNS_DIR / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NamespaceMissingError(f"network namespace {name} does not exist") from error
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise NamespaceMissingError(f"cannot enter the network namespace {name}: {os.strerror(code)}")
    finally:
        os.close(descriptor)


def ensure_folder() -> None:
    """Creates the folder as `ip` does, which would apply the umask of this process."""
    if not NETNS_DIR.exists():
        NETNS_DIR.mkdir(exist_ok=True)
        NETNS_DIR.chmod(0o755)


def create(name: str) -> bool:
    """Creates a namespace as `ip netns add` does (ip-netns(8)), without a process.

    Returns False without creating it if /run/netns is not a mount point yet; the first `ip netns add` makes it one.
    Raises OSError, and FileExistsError if the namespace exists.
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
    """Deletes the name, as `ip netns delete` does. Idempotent. Raises OSError.

    The kernel destroys the namespace when the last process and descriptor in it are gone.
    """
    path = NETNS_DIR / name
    _libc.umount2(os.fsencode(path), MNT_DETACH)  # fails if a crash left a plain file
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
    """True if the directory is a mount point. Mount IDs are compared, because a bind mount has its parent's `st_dev`."""
    try:
        return _mount_id(folder) != _mount_id(folder.parent)
    except FileNotFoundError:
        return False


def _mount_id(path: Path) -> str:
    """The mount ID from /proc/<pid>/fdinfo (proc_pid_fdinfo(5))."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        fdinfo = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    return next(line for line in fdinfo.splitlines() if line.startswith("mnt_id:"))


def has_sockets(name: str) -> bool:
    """True if the namespace has an internet socket of any family and type.

    Unlike `by_namespace.processes_in`, the cost does not grow with the number of processes on the host.
    """
    try:
        return run_in(name, lambda: any(_counts_sockets(line) for file in SOCKSTAT for line in _read_lines(file)))
    except NamespaceMissingError:
        return False


def _counts_sockets(line: str) -> bool:
    """Parses a line such as `TCP: inuse 3 orphan 0 …` or `RAW6: inuse 1`.

    The first line ("sockets: used") counts all families and is ignored.
    """
    words = line.split()
    return words[1:2] == ["inuse"] and words[2] != "0" and not words[0].startswith("FRAG")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:  # the kernel has no IPv6
        return []
