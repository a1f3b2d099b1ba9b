"""The unix sockets of the metadata agent, inherited or new, with the permissions of `metadata_proxy_socket_mode`."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from openimds.config import MetadataAgentConfig
from openimds.http.sockets import ListenError, UnixAccess, datagram_listener, give_access, is_bound_at, unix_listener
from openimds.runtime.fdstore import FdStore
from openimds.runtime.lifecycle import StartupError

_MODES = {"user": 0o644, "group": 0o664, "all": 0o666}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyAccount:
    """The user and group of the namespace proxies. None for the agent's own."""

    user_id: int | None
    group_id: int | None


def proxy_account(user: str, group: str) -> ProxyAccount:
    """Parses names or IDs. An empty one is None. Raises StartupError for an unknown name."""
    try:
        user_id = None if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise StartupError(f"metadata_proxy_user: there is no user {user!r} on this machine") from None
    try:
        group_id = None if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartupError(f"metadata_proxy_group: there is no group {group!r} on this machine") from None
    return ProxyAccount(user_id=user_id, group_id=group_id)


def socket_access(mode: str, account: ProxyAccount) -> UnixAccess:
    """Returns the permissions of the agent's unix socket. In mode `group`, the socket belongs to the proxies' group."""
    chosen = _deduced(account) if mode == "deduce" else mode
    group_id = account.group_id if chosen == "group" and account.group_id is not None else -1
    return UnixAccess(mode=_MODES[chosen], group_id=group_id)


def _deduced(account: ProxyAccount) -> str:
    if account.user_id is None or account.user_id in (0, os.geteuid()):
        return "user"
    # A user other than root can give the socket only to its own groups.
    may_give = account.group_id is None or os.geteuid() == 0 or account.group_id in (os.getegid(), *os.getgroups())
    return "group" if may_give else "all"


_LOG_QUEUE_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentSockets:
    """Namespace proxies connect to `guests`, and send their log to `haproxy_log`."""

    guests: socket.socket
    haproxy_log: socket.socket


def open_sockets(config: MetadataAgentConfig, kept: FdStore) -> AgentSockets:
    """Returns both sockets, and registers them at the service manager. Raises StartupError."""
    access = socket_access(config.socket_mode, proxy_account(config.proxy_user, config.proxy_group))
    # A log socket needs write permission only.
    log_access = UnixAccess(mode=access.mode & 0o622, user_id=access.user_id, group_id=access.group_id)
    try:
        config.socket_path.parent.mkdir(parents=True, exist_ok=True)
        guests = _Opening("metadata_proxy", config.socket_path, access, unix_listener).open(kept)
        haproxy_log = _Opening("haproxy_log", config.haproxy_log_socket, log_access, datagram_listener).open(kept)
    except ListenError as error:
        raise StartupError(str(error)) from None
    except OSError as error:
        raise StartupError(f"cannot make {config.socket_path.parent}: {error.strerror}") from None
    haproxy_log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOG_QUEUE_BYTES)
    haproxy_log.setblocking(False)
    return AgentSockets(guests, haproxy_log)


@dataclass(frozen=True, slots=True)
class _Opening:
    name: str
    path: Path
    access: UnixAccess
    bind: Callable[[Path, UnixAccess], socket.socket]

    def open(self, kept: FdStore) -> socket.socket:
        found = kept.take(self.name)
        if found is not None and is_bound_at(found, self.path):
            give_access(self.path, self.access)
            log.info("unix socket inherited", path=str(self.path))
            return found
        if found is not None:
            log.info("inherited unix socket replaced: its file is gone", path=str(self.path))
            found.close()
            kept.forget(self.name)
        made = self.bind(self.path, self.access)
        kept.put(self.name, made)
        return made
