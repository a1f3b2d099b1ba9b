"""Whether programs that give up root can still read what an agent writes for them.

A host whose kernel knows no IPv6 serves IPv4, and says so.
"""

from __future__ import annotations

import functools
from pathlib import Path

import structlog

from openimds.linux.sysctl import kernel_has_ipv6

log = structlog.get_logger(__name__)

OTHERS_MAY_PASS = 0o001


def is_closed_to_others(folder: Path) -> bool:
    """Dnsmasq and radvd read their files again after they gave root up. Where a folder on the way is closed to others
    they must keep it: else they would go on with yesterday's files without a word.
    """
    way = [folder, *folder.parents]
    closed = [one for one in way if one.exists() and not one.stat().st_mode & OTHERS_MAY_PASS]
    if closed:
        log.warning("programs in the namespaces keep root: others cannot pass this folder", folder=str(closed[0]))
    return bool(closed)


logger = structlog.get_logger(__name__)


@functools.cache
def check_ipv6() -> bool:
    """Asked and said once: a kernel does not learn it later."""
    if kernel_has_ipv6():
        return True
    logger.warning("this kernel has no IPv6: IPv6 subnets are left out here, IPv4 is served")
    return False
