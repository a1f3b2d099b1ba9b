"""A namespace's settings, read through files of /proc/sys/net that stay open: each shows the setting of the namespace
that it was opened in, whichever thread reads it. It keeps no namespace in being.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping

from openimds.linux.fd_budget import open_to_stay
from openimds.linux.sysctl import MAX_SETTING_BYTES, sysctl_path


class SettingFiles:
    """For any thread."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        """By key (`net.ipv4.ip_forward`)."""
        self._lock = threading.Lock()

    def keep(self, keys: Iterable[str], device_names: frozenset[str]) -> None:
        """By a thread in the namespace. What is not there, or one too many, is left out."""
        for key in keys:
            descriptor = open_to_stay(sysctl_path(key, device_names))
            if descriptor is not None:
                with self._lock:
                    self._forget(key)
                    self._open[key] = descriptor

    def text(self, key: str) -> str | None:
        """None: it is not kept, or was of a device that is gone."""
        with self._lock:
            descriptor = self._open.get(key)
            if descriptor is None:
                return None
            try:
                return os.pread(descriptor, MAX_SETTING_BYTES, 0).decode().strip()
            except OSError:
                self._forget(key)
                return None

    def differ(self, wanted: Mapping[str, str]) -> bool:
        """Whether one that is kept has another value than is wanted."""
        return any(self.text(key) not in (None, value) for key, value in wanted.items())

    def close(self) -> None:
        with self._lock:
            for key in list(self._open):
                self._forget(key)

    def _forget(self, key: str) -> None:
        descriptor = self._open.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)
