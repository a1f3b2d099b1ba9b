"""A TCP listener that outlives its process: who connects while the program is started again waits, and is not refused."""

from __future__ import annotations

import socket

import structlog

from openimds.config import Listen
from openimds.http.server.server import BACKLOG
from openimds.http.sockets import ListenError, tcp_listener
from openimds.runtime.fdstore import KeptSockets
from openimds.runtime.lifecycle import CannotStartError

log = structlog.get_logger(__name__)


def kept_listener(listen: Listen, kept: KeptSockets, *, hint: str = "") -> socket.socket:
    """The listener that the process before has left, or a new one; kept from now on.

    It is the program's only kept socket: others, such as one on a place that was configured before, are closed.
    Raises CannotStartError; `hint` follows its sentence.
    """
    name = _name(listen)
    found = kept.take(name)
    # Before another one is bound: what is closed here may have the same port, on another address.
    if kept.close_untaken():
        kept.wait_heard()
    if found is not None:
        log.info("a socket goes on where the process before left it", listens=f"{listen.host}:{listen.port}")
        return found
    try:
        made = tcp_listener(listen.host, listen.port)
    except ListenError as error:
        raise CannotStartError(f"{error}{hint}") from None
    made.listen(BACKLOG)
    kept.put(name, made)
    return made


def _name(listen: Listen) -> str:
    """By its place, so that the same place is found again and another is not. Names have no colons."""
    return f"tcp.{listen.host.replace(':', '_')}.{listen.port}"
