"""Checks of the host that change how an agent configures its programs: folder permissions and IPv6."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

import structlog

from openimds.linux.sysctl import kernel_has_ipv6

log = structlog.get_logger(__name__)

OTHERS_MAY_PASS = 0o001
PRIVATE_UMASK = 0o077
FOLDER_MODES = {
    "dhcp": 0o711,  # dnsmasq runs without root, and reads its own files below by their names
    **dict.fromkeys(
        ("external", "images", "instances", "log", "metrics", "ns-metadata-proxy", "owned", "ra", "rules", "run"), 0o700
    ),
}
"""The modes of the folders in the state folder. docs/security.md lists what other users can reach, and why."""


def close_to_others(state_path: Path) -> None:
    """Closes the folders of the state folder to other users, also those of an earlier version, and new files likewise."""
    os.umask(PRIVATE_UMASK)
    for name, mode in FOLDER_MODES.items():
        with contextlib.suppress(OSError):  # absent, or of another user; a program that needs it reports it
            (state_path / name).chmod(mode)


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
