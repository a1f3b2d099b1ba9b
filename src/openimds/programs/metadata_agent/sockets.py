"""The metadata agent's unix sockets: those that an earlier process left with the service manager, or new ones."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from openimds.config import MetadataAgentConfig
from openimds.http.sockets import ListenError, UnixAccess, datagram_listener, give_access, is_bound_at, unix_listener
from openimds.programs.metadata_agent.socket_access import proxy_account, socket_access
from openimds.runtime.fdstore import KeptSockets
from openimds.runtime.lifecycle import CannotStartError

_LOG_QUEUE_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentSockets:
    """`guests` is where the namespace proxies connect; to `haproxy_log` they send their log."""

    guests: socket.socket
    haproxy_log: socket.socket


def open_sockets(config: MetadataAgentConfig, kept: KeptSockets) -> AgentSockets:
    """Both, kept from now on. Raises CannotStartError."""
    access = socket_access(config.socket_mode, proxy_account(config.proxy_user, config.proxy_group))
    # Who may log may only write: the same people, and nobody needs to read.
    log_access = UnixAccess(mode=access.mode & 0o622, user_id=access.user_id, group_id=access.group_id)
    try:
        config.socket_path.parent.mkdir(parents=True, exist_ok=True)
        guests = _Opening("metadata_proxy", config.socket_path, access, unix_listener).open(kept)
        haproxy_log = _Opening("haproxy_log", config.haproxy_log_socket, log_access, datagram_listener).open(kept)
    except ListenError as error:
        raise CannotStartError(str(error)) from None
    except OSError as error:
        raise CannotStartError(f"cannot make {config.socket_path.parent}: {error.strerror}") from None
    haproxy_log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOG_QUEUE_BYTES)
    haproxy_log.setblocking(False)
    return AgentSockets(guests, haproxy_log)


@dataclass(frozen=True, slots=True)
class _Opening:
    name: str
    path: Path
    access: UnixAccess
    bind: Callable[[Path, UnixAccess], socket.socket]

    def open(self, kept: KeptSockets) -> socket.socket:
        found = kept.take(self.name)
        if found is not None and is_bound_at(found, self.path):
            give_access(self.path, self.access)
            log.info("a socket goes on where the process before left it", path=str(self.path))
            return found
        if found is not None:
            log.info("a kept socket is another than the one at its path; it is made anew", path=str(self.path))
            found.close()
            kept.forget(self.name)
        made = self.bind(self.path, self.access)
        kept.put(self.name, made)
        return made
