"""The settings that metadata agents render documents with, as the control API tells them: from the same nova.conf, and
followed like the metadata API follows them.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace

import structlog

from openimds.config import DocumentsConfig
from openimds.metadata.context import DocumentSettings
from openimds.programs.metadata_api.wiring import document_settings, vendor_file
from openimds.programs.vendordata_file import LOOK_SECONDS, StaticVendorData
from openimds.resources.errors import NotFound
from openimds.runtime.lifecycle import StartupError

log = structlog.get_logger(__name__)


class ReloadingDocumentSettings:
    """Threads may share it. Settings that cannot be read are told to nobody, and agents ask the metadata API; what they
    were before stays as long as it can.
    """

    def __init__(self, config: DocumentsConfig) -> None:
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._config = config
        self._settings: DocumentSettings | None = None
        self._file: StaticVendorData | None = None
        self.take_over(config)

    def current(self) -> DocumentSettings:
        """The same object until something changes. Raises NotFound."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_SECONDS
                self._look()
            if self._settings is None:
                raise NotFound("The settings that documents are rendered with cannot be read here: see the log.")
            return self._settings

    def take_over(self, config: DocumentsConfig) -> None:
        """As it was read just now."""
        with self._lock:
            try:
                self._read(config)
            except StartupError as error:
                log.error("metadata agents are not told how to render documents", reason=str(error))  # noqa: TRY400

    def _read(self, config: DocumentsConfig) -> None:
        if self._settings is None:
            self._config = config
        settings = document_settings(config)
        path = vendor_file(config)
        content = settings.static_vendor_data
        self._config, self._settings = config, settings
        self._file = StaticVendorData(path, content) if path is not None and content is not None else None

    def _look(self) -> None:
        if self._settings is None:
            with suppress(StartupError):
                self._read(self._config)
                log.info("metadata agents are told how to render documents")
        elif self._file is not None and (content := self._file.look()) is not None:
            self._settings = replace(self._settings, static_vendor_data=content)
