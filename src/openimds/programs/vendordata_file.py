"""The static vendor data file: read at the start, and again whenever it changes."""

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
    """The file's JSON object; `{}` without a file. Raises CannotStartError."""
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
    """A file that may be edited while it is served. A broken one says so once, and the last good content stays."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._content = content
        """The newest that could be read."""

    async def watch(self, on_change: Callable[[Mapping[str, Any]], None]) -> None:
        """Until cancelled: call `on_change` with each new content."""
        while True:
            changed = self.look()
            if changed is not None:
                on_change(changed)
            await asyncio.sleep(CHECK_SECONDS)

    def look(self) -> Mapping[str, Any] | None:
        """The new content, None when there is none. The first look reads, too: the file may have changed since."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            content = static_vendor_data(self._path)
        except StartupError as error:
            log.warning("the vendor data file is broken; what it held before is served on", reason=str(error))
            return None
        if content == self._content:
            return None
        self._content = content
        log.info("the vendor data file was read again", file=str(self._path))
        return content

    def _stamp_now(self) -> tuple[int, ...]:
        """Different for every state that the file was in; (0,) while it is not there."""
        try:
            found = self._path.stat()
        except OSError:
            return (0,)
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
