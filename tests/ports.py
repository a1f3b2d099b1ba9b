"""TCP ports of the loopback interface for programs under test."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST_PORT, LAST_PORT = 20000, 32000
"""Below the kernel's ephemeral ports (net.ipv4.ip_local_port_range).

No outgoing connection takes one of these ports. A client that retries an ephemeral port while its program is down would
in the end connect to itself, and the program would find the port in use.
"""
PORTS_PER_WORKER = 1000


def free_port() -> int:
    """A port that no socket is bound to, from the range of this test process."""
    first = FIRST_PORT + _worker() * PORTS_PER_WORKER
    while True:
        port = random.randrange(first, first + PORTS_PER_WORKER)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def free_ports(count: int) -> list[int]:
    """Different free ports."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def _worker() -> int:
    """The number of this pytest-xdist process. 0 if the tests run in one process."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return number % ((LAST_PORT - FIRST_PORT) // PORTS_PER_WORKER)
