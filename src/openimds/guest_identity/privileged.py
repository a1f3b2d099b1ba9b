"""Does root of the guest ask? Only root opens a connection from a port below 1024 (Linux: net.ipv4.ip_unprivileged_port_start)."""

from __future__ import annotations

from openimds.guest_identity.headers import Headers, values

PRIVILEGED = "X-Openimds-Guest-Privileged"
"""Says so from hop to hop. Our namespace proxies drop a guest's own and set this where it is true; on nearly all requests
it is not, which so stay equal to each other, byte for byte."""
FIRST_UNPRIVILEGED_PORT = 1024


def is_privileged(port: int) -> bool:
    return 0 < port < FIRST_UNPRIVILEGED_PORT


def was_privileged(headers: Headers) -> bool:
    """As the hop before says."""
    return bool(values(headers, PRIVILEGED))
