"""Kernel settings of the calling thread's network namespace (`/proc/sys/net` shows each thread its own).

Whether this kernel knows IPv6 at all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PROC_SYS = Path("/proc/sys")
MAX_SETTING_BYTES = 4096


class MissingSettingError(Exception):
    """This kernel has no such setting: there is nothing to do."""


_logged_missing: set[str] = set()
"""Settings that this kernel lacks, and that the log has already said so of."""


@functools.lru_cache(maxsize=8192)
def sysctl_path(key: str, device_names: frozenset[str] = frozenset()) -> Path:
    """`net.ipv4.ip_forward` → `/proc/sys/net/ipv4/ip_forward`. A device's name may itself hold dots."""
    for name in device_names:
        before, found, after = key.partition(f".{name}.")
        if found:
            return PROC_SYS / before.replace(".", "/") / name / after.replace(".", "/")
    return PROC_SYS / key.replace(".", "/")


def read_sysctl(key: str, device_names: frozenset[str] = frozenset()) -> str | None:
    """None: this kernel has no such setting (IPv6 switched off), or the device is not there yet."""
    try:
        descriptor = os.open(sysctl_path(key, device_names), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, MAX_SETTING_BYTES).decode().strip()
    finally:
        os.close(descriptor)


def read_desired(wanted: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
    """The wanted settings as they are. One that this kernel has not (IPv6 switched off, a kernel of before it was thought
    of) reads as it is wanted, since there is nothing to do about it; one of a device that is not there yet is left out.
    """
    found = {}
    for key, value in wanted.items():
        is_now = read_sysctl(key, device_names)
        if is_now is None and _is_unknown(key, device_names):
            _log_missing(key, device_names)
            is_now = value
        if is_now is not None:
            found[key] = is_now
    return found


def write_desired(key: str, value: str, device_names: frozenset[str]) -> None:
    """Raises OSError, and MissingSettingError when this kernel has no such setting."""
    try:
        write_sysctl(key, value, device_names)
    except FileNotFoundError:
        if not _is_unknown(key, device_names):
            raise
        _log_missing(key, device_names)
        raise MissingSettingError(key) from None


def _is_unknown(key: str, device_names: frozenset[str]) -> bool:
    """Every device has settings for IPv4: where it has these, or none is meant, the kernel itself lacks the setting."""
    name = _device_in(key, device_names)
    return name is None or (PROC_SYS / "net/ipv4/conf" / name).exists()


def _device_in(key: str, device_names: frozenset[str]) -> str | None:
    return next((name for name in device_names if f".{name}." in key), None)


def _log_missing(key: str, device_names: frozenset[str]) -> None:
    name = _device_in(key, device_names)
    setting = key if name is None else key.replace(f".{name}.", ".<device>.")
    if setting not in _logged_missing:
        _logged_missing.add(setting)
        log.warning("this kernel has no such setting; going on without it", setting=setting)


def write_sysctl(key: str, value: str, device_names: frozenset[str] = frozenset()) -> None:
    """Raises OSError."""
    with sysctl_path(key, device_names).open("w") as setting:
        setting.write(value)


def disable_ipv6(device: str) -> None:
    """The host itself must never speak on a tenant's segment: no link-local address on this device."""
    if read_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})) == "0":
        write_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", "1", frozenset({device}))


def kernel_has_ipv6() -> bool:
    """False: built without it, or started with `ipv6.disable=1`. A sysctl that switches it off is another matter:
    our namespaces have their own.
    """
    return (PROC_SYS / "net/ipv6/conf").is_dir()
