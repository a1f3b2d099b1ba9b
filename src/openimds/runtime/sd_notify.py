"""Start-up notifications to the service manager (sd_notify(3))."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def ready(**facts: object) -> None:
    """Logs the event `ready` with `facts`, and sends READY=1. The STATUS= of the start is cleared."""
    log.info("ready", **facts)
    send("READY=1\nSTATUS=")


def stopping() -> None:
    """Sends STOPPING=1: the program begins to stop."""
    send("STOPPING=1")


def extend_start(seconds: float, status: str) -> None:
    """Moves the start timeout to `seconds` from now; `status` is the progress of the start in words.

    EXTEND_TIMEOUT_USEC never shortens a timeout that the service manager set later.
    """
    send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}\nSTATUS={status}")


def send(message: str) -> None:
    """Sends `message` to NOTIFY_SOCKET. A missing service manager is not an error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            channel.sendall(message.encode())
        except OSError as error:
            log.debug("notify socket unreachable", address=address, error=str(error))
