"""Creates bound sockets for the HTTP server and for logs."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

_CONNECT_SECONDS = 1.0
_SIOCUNIXFILE = 0x89E0
"""Returns a descriptor of the file that a unix socket is bound to (linux/un.h)."""


class ListenError(Exception):
    """A socket cannot be created. The message has the socket, the reason and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAccess:
    """The permissions of a unix socket. A client needs write permission."""

    mode: int = 0o644
    user_id: int = -1
    """-1 to leave the owner unchanged."""
    group_id: int = -1


def tcp_listener(host: str, port: int) -> socket.socket:
    """Returns a TCP socket bound to an address or name. `::` includes IPv4. Raises ListenError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on {host}: {error.strerror}; give an address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ListenError(_tcp_error_text(host, port, error)) from None
    return listener


def unix_listener(path: Path, access: UnixAccess) -> socket.socket:
    """Returns a unix socket bound to `path`. Replaces the file of a dead process. Raises ListenError."""
    _remove_stale(path, socket.SOCK_STREAM)
    return _bind_unix(path, access, socket.SOCK_STREAM)


def datagram_listener(path: Path, access: UnixAccess) -> socket.socket:
    """Returns a unix datagram socket bound to `path`, like syslog's `/dev/log`. Raises ListenError."""
    _remove_stale(path, socket.SOCK_DGRAM)
    return _bind_unix(path, access, socket.SOCK_DGRAM)


def is_bound_at(listener: socket.socket, path: Path) -> bool:
    """Returns whether `path` is still the file of this unix socket."""
    try:
        there = path.lstat()
        descriptor = fcntl.ioctl(listener, _SIOCUNIXFILE)
    except PermissionError:  # the ioctl needs CAP_NET_ADMIN; the name is the next best evidence
        return bool(listener.getsockname() == str(path))
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), there)
    finally:
        os.close(descriptor)


def give_access(path: Path, access: UnixAccess) -> None:
    """Sets the permissions of an existing socket. Raises ListenError."""
    try:
        os.chown(path, access.user_id, access.group_id)
        path.chmod(access.mode)
    except OSError as error:
        raise ListenError(f"cannot give the socket {path} its permissions: {error.strerror}; check this user") from None


def _bind_unix(path: Path, access: UnixAccess, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    old_umask = os.umask(0o177)  # no other user can connect between bind and chmod
    try:
        listener.bind(str(path))
        os.chown(path, access.user_id, access.group_id)
        path.chmod(access.mode)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot make the socket {path}: {error.strerror}; check its folder and this user") from None
    finally:
        os.umask(old_umask)
    return listener


def _remove_stale(path: Path, kind: socket.SocketKind) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot look at {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} is there and is no socket; remove it or configure another path")
    if _is_in_use(path, kind):
        raise ListenError(f"another process listens on {path}; stop it or configure another path")
    path.unlink(missing_ok=True)


def _is_in_use(path: Path, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # the queue is full or access is denied, so a process listens
        return True


def _tcp_error_text(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host or 'all addresses'} is taken by another process; stop it or choose another port"
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; run as root or choose a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {host}:{port}: {host} is no address of this machine (`ip address` shows those)"
    return f"cannot listen on {host}:{port}: {error.strerror}"
