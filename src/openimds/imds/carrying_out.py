"""What a request wants done before it can be answered: a password stored, vendors asked."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Protocol

from openimds.imds.authenticators import Asker
from openimds.imds.delegation import Elsewhere
from openimds.imds.instance_cache import Records
from openimds.imds.vendordata import Vendors
from openimds.metadata.outcome import Answer, AskVendors, Refusal, StorePassword, not_found
from openimds.metadata.password import password_refused, password_stored
from openimds.metadata.reading import DocumentSettings
from openimds.metadata.vendordata import vendor_data2, vendor_question
from openimds.resources.errors import NotFound


class Passwords(Protocol):
    """Where passwords are stored; asked of where the asker has nobody elsewhere who does."""

    def set_password_once(self, instance_id: str, text: str) -> bool:
        """False when the instance has one. Raises NotFound, StoreUnavailable."""


class CarryingOut:
    """Of one service."""

    def __init__(
        self,
        *,
        records: Records,
        passwords: Passwords | None,
        vendors: Vendors | None,
        settings: DocumentSettings,
        executor: Executor,
    ) -> None:
        """Passwords are stored on a thread of `executor`."""
        self._records = records
        self._passwords = passwords
        self._vendors = vendors
        self._settings = settings
        self._executor = executor

    async def carry_out(self, wanted: StorePassword | AskVendors, asker: Asker) -> Answer:
        """Raises Elsewhere where the asker has others for it; Refusal; StoreUnavailable."""
        if asker.elsewhere is not None:
            raise Elsewhere(asker.elsewhere, asker.instance.id, asker.facts)
        match wanted:
            case StorePassword(text):
                return await self._store_password(asker.instance.id, text)
            case AskVendors():
                said = await self._vendors.ask(vendor_question(asker.instance)) if self._vendors else {}
                return vendor_data2(self._settings, said)

    async def _store_password(self, instance_id: str, text: str) -> Answer:
        loop = asyncio.get_running_loop()
        if self._passwords is None:
            raise Refusal(503, "No passwords can be stored here.")
        try:
            stored = await loop.run_in_executor(self._executor, self._passwords.set_password_once, instance_id, text)
        except NotFound:
            raise not_found() from None
        self._records.forget_instance(instance_id)
        if not stored:
            raise password_refused()
        return password_stored()
