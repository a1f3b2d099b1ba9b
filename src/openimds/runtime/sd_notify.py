"""Telling whoever started this program how far it is, in systemd's way (sd_notify(3))."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def ready(**facts: object) -> None:
    """Say that this program serves: one `ready` event in the log with `facts`, and READY=1 to the starter if it listens.

    What STATUS= said of the start is over.
    """
    log.info("ready", **facts)
    send("READY=1\nSTATUS=")


def stopping() -> None:
    """Say that this program was told to stop, and is about to."""
    send("STOPPING=1")


def extend_start(seconds: float, status: str) -> None:
    """Ask for so many more seconds to become ready in, from now on; `status` says in words how far the start is.

    A starter that had given more time takes nothing away (EXTEND_TIMEOUT_USEC).
    """
    send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}\nSTATUS={status}")


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
