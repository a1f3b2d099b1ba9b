"""Whether this kernel knows IPv6 at all."""

from __future__ import annotations

from openimds.linux import sysctl


def kernel_has_ipv6() -> bool:
    """False: built without it, or started with `ipv6.disable=1`. A sysctl that switches it off is another matter:
    our namespaces have their own.
    """
    return (sysctl.PROC_SYS / "net/ipv6/conf").is_dir()
