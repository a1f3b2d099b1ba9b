"""TCP ports of the loopback for programs under test."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Below the range that the kernel takes ports of outgoing connections from: nobody gets it in between.

    From that range even one's own connection could come: asked again and again while a program is down, a port of it
    connects to itself one day, and the program then finds it taken.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def free_ports(count: int) -> list[int]:
    """Different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
