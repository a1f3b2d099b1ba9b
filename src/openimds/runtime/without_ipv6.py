"""A host whose kernel knows no IPv6 serves IPv4, and says so."""

from __future__ import annotations

import functools

import structlog

from openimds.linux.ipv6 import kernel_has_ipv6

logger = structlog.get_logger(__name__)


@functools.cache
def told_whether_ipv6() -> bool:
    """Asked and said once: a kernel does not learn it later."""
    if kernel_has_ipv6():
        return True
    logger.warning("this kernel has no IPv6: IPv6 subnets are left out here, IPv4 is served")
    return False
