"""Telling whoever started this program how far it is, in systemd's way (sd_notify(3))."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def ready(**facts: object) -> None:
    """Say that this program serves: one `ready` event in the log with `facts`, and READY=1 to the starter if it listens."""
    log.info("ready", **facts)
    send("READY=1")


def stopping() -> None:
    """Say that this program was told to stop, and is about to."""
    send("STOPPING=1")


def send(message: str) -> None:
    """Send `message` to NOTIFY_SOCKET; nobody there is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            channel.sendall(message.encode())
        except OSError as error:
            log.debug("nobody listens on the notify socket", address=address, error=str(error))
