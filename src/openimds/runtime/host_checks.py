"""Checks of the host that change how an agent configures its programs: folder permissions and IPv6."""

from __future__ import annotations

import functools
from pathlib import Path

import structlog

from openimds.linux.sysctl import kernel_has_ipv6

log = structlog.get_logger(__name__)

OTHERS_MAY_PASS = 0o001


def is_closed_to_others(folder: Path) -> bool:
    """Returns whether users other than the owner cannot traverse the path to `folder`.

    dnsmasq and radvd reread their files after they dropped root. If the path is closed, they must keep root: a process
    that cannot read its files again uses their old contents without an error.
    """
    closed = [each for each in (folder, *folder.parents) if each.exists() and not each.stat().st_mode & OTHERS_MAY_PASS]
    if closed:
        log.warning("dnsmasq and radvd keep root: other users cannot traverse a folder", folder=str(closed[0]))
    return bool(closed)


@functools.cache
def check_ipv6() -> bool:
    """Returns whether the kernel has IPv6, and logs its absence once. A running kernel does not change in this."""
    if kernel_has_ipv6():
        return True
    log.warning("IPv6 absent from this kernel: IPv6 subnets are skipped, IPv4 is served")
    return False
