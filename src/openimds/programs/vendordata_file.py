"""The file of static vendor data, which is read at the start and after each change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from openimds.runtime.lifecycle import StartupError

log = structlog.get_logger(__name__)

CHECK_SECONDS = 0.5


def static_vendor_data(path: Path | None) -> dict[str, Any]:
    """Returns the JSON object in the file, or `{}` without a file. Raises StartupError."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StartupError(
            f"[api] vendordata_jsonfile_path: {path} cannot be read: {error.strerror}; make it readable or unset it"
        ) from None
    except ValueError as error:
        raise StartupError(f"[api] vendordata_jsonfile_path: {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise StartupError(f"[api] vendordata_jsonfile_path: {path} must hold a JSON object")
    return content


class StaticVendorData:
    """The content of a file that may change while it is served.

    An invalid file is logged once, and the last valid content stays in use.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path = path
        self._signature: tuple[int, ...] | None = None
        self._content = content
        """The last valid content."""

    async def watch(self, on_change: Callable[[Mapping[str, Any]], None]) -> None:
        """Calls `on_change` with each new content, until the task is cancelled."""
        while True:
            content = self.read_change()
            if content is not None:
                on_change(content)
            await asyncio.sleep(CHECK_SECONDS)

    def read_change(self) -> Mapping[str, Any] | None:
        """Returns the new content, or None if it is unchanged.

        The first call always reads the file, which may have changed after the content that the constructor received.
        """
        signature = self._file_signature()
        if signature == self._signature:
            return None
        self._signature = signature
        try:
            content = static_vendor_data(self._path)
        except StartupError as error:
            log.warning("vendor data file invalid: previous content stays in use", reason=str(error))
            return None
        if content == self._content:
            return None
        self._content = content
        log.info("vendor data file reloaded", file=str(self._path))
        return content

    def _file_signature(self) -> tuple[int, ...]:
        """Times, size and inode of the file, which change with its content. (0,) if the file does not exist."""
        try:
            found = self._path.stat()
        except OSError:
            return (0,)
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
