"""Kernel settings of the calling thread's network namespace.

`/proc/sys/net` shows each thread the settings of its own namespace.
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
    """The kernel does not have this setting, so it cannot be set."""


_logged_missing: set[str] = set()
"""Missing settings that were logged already."""


@functools.lru_cache(maxsize=8192)
def sysctl_path(key: str, device_names: frozenset[str] = frozenset()) -> Path:
    """Translates `net.ipv4.ip_forward` to `/proc/sys/net/ipv4/ip_forward`.

    `device_names` are needed because the name of a device may contain dots.
    """
    for name in device_names:
        before, found, after = key.partition(f".{name}.")
        if found:
            return PROC_SYS / before.replace(".", "/") / name / after.replace(".", "/")
    return PROC_SYS / key.replace(".", "/")


def read_sysctl(key: str, device_names: frozenset[str] = frozenset()) -> str | None:
    """Returns None if the kernel does not have the setting (IPv6 disabled) or the device does not exist yet."""
    try:
        descriptor = os.open(sysctl_path(key, device_names), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, MAX_SETTING_BYTES).decode().strip()
    finally:
        os.close(descriptor)


def read_desired(desired: Mapping[str, str], device_names: frozenset[str]) -> dict[str, str]:
    """Reads the settings in `desired` and returns their actual values.

    A setting that the kernel does not have (IPv6 disabled, older kernel) is returned with its desired value, because it
    cannot be set. The settings of a device that does not exist yet are left out.
    """
    found = {}
    for key, value in desired.items():
        actual = read_sysctl(key, device_names)
        if actual is None and _is_unknown(key, device_names):
            _log_missing(key, device_names)
            actual = value
        if actual is not None:
            found[key] = actual
    return found


def write_desired(key: str, value: str, device_names: frozenset[str]) -> None:
    """Writes a setting. Raises OSError, or MissingSettingError if the kernel does not have the setting."""
    try:
        write_sysctl(key, value, device_names)
    except FileNotFoundError:
        if not _is_unknown(key, device_names):
            raise
        _log_missing(key, device_names)
        raise MissingSettingError(key) from None


def _is_unknown(key: str, device_names: frozenset[str]) -> bool:
    """True if the kernel does not support the setting. False if the device of the key does not exist.

    Every existing device has IPv4 settings.
    """
    name = _device_in(key, device_names)
    return name is None or (PROC_SYS / "net/ipv4/conf" / name).exists()


def _device_in(key: str, device_names: frozenset[str]) -> str | None:
    return next((name for name in device_names if f".{name}." in key), None)


def _log_missing(key: str, device_names: frozenset[str]) -> None:
    name = _device_in(key, device_names)
    setting = key if name is None else key.replace(f".{name}.", ".<device>.")
    if setting not in _logged_missing:
        _logged_missing.add(setting)
        log.warning("kernel setting missing", setting=setting)


def write_sysctl(key: str, value: str, device_names: frozenset[str] = frozenset()) -> None:
    """Writes a setting. Raises OSError."""
    with sysctl_path(key, device_names).open("w") as setting:
        setting.write(value)


def disable_ipv6(device: str) -> None:
    """Disables IPv6 on a host device, so that the host has no link-local address on a tenant's segment."""
    if read_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})) == "0":
        write_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", "1", frozenset({device}))


def kernel_has_ipv6() -> bool:
    """True if the kernel supports IPv6.

    False if the kernel was built without it or started with `ipv6.disable=1`. The host's `disable_ipv6` sysctls do not
    matter, because the agents' namespaces have their own.
    """
    return (PROC_SYS / "net/ipv6/conf").is_dir()
