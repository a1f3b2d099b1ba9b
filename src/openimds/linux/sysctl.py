"""Kernel settings of the calling thread's network namespace (`/proc/sys/net` shows each thread its own)."""

from __future__ import annotations

from pathlib import Path

PROC_SYS = Path("/proc/sys")


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
        return sysctl_path(key, device_names).read_text().strip()
    except FileNotFoundError:
        return None


def write_sysctl(key: str, value: str, device_names: frozenset[str] = frozenset()) -> None:
    """Raises OSError."""
    with sysctl_path(key, device_names).open("w") as setting:
        setting.write(value)


def silence_ipv6(device: str) -> None:
    """The host itself must never speak on a tenant's segment: no link-local address on this device."""
    if read_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", frozenset({device})) == "0":
        write_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", "1", frozenset({device}))
