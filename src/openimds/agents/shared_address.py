"""fe80::a9fe:a9fe on a network that several hosts serve: the first one has it, and the others leave it to that one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from openimds.wiring.addresses import METADATA_IPV6, METADATA_IPV6_ON_DEVICE
from openimds.wiring.state import NamespaceState

logger = structlog.get_logger(__name__)


class Detected(Protocol):
    @property
    def failed(self) -> bool:
        """Somebody else has the address."""

    @property
    def under_way(self) -> bool:
        """The kernel is still asking."""


class Detection(Protocol):
    def detection(self, namespace: str, device: str, interface: str) -> Detected | None: ...
    def detect_again(self, namespace: str, device: str, interface: str) -> None: ...


class SharedAddress:
    """Whose it is, seen by the kernel's duplicate address detection; looked for again at every look, so that it is
    taken back when the other has gone. A duplicate is no failure.
    """

    def __init__(self, kernel: Detection) -> None:
        self._kernel = kernel
        self.elsewhere: Mapping[str, frozenset[str]] = {}
        """By network or router: the devices on which another host answers. Replaced whole."""

    def look(self, key: str, state: NamespaceState) -> tuple[str, ...]:
        """No words: nothing that is ours was changed. Raises what looking raises."""
        before = self.elsewhere.get(key, frozenset())
        devices = [device.name for device in state.devices if METADATA_IPV6_ON_DEVICE in (device.addresses or ())]
        now = frozenset(name for name in devices if self._is_elsewhere(state.name, name, was=name in before))
        _tell(state.name, before, now)
        self.elsewhere = {**self.elsewhere, key: now}
        return ()

    def forget(self, key: str) -> None:
        self.elsewhere = {other: devices for other, devices in self.elsewhere.items() if other != key}

    def _is_elsewhere(self, namespace: str, device: str, *, was: bool) -> bool:
        found = self._kernel.detection(namespace, device, METADATA_IPV6_ON_DEVICE)
        if found is None or found.under_way:
            return was
        if found.failed:
            self._kernel.detect_again(namespace, device, METADATA_IPV6_ON_DEVICE)
        return found.failed


def _tell(namespace: str, before: frozenset[str], now: frozenset[str]) -> None:
    for device in sorted(now - before):
        logger.info(
            "another host serves metadata at this address on the network: left to it",
            address=METADATA_IPV6,
            namespace=namespace,
            device=device,
        )
    for device in sorted(before - now):
        logger.info("metadata is served here again", address=METADATA_IPV6, namespace=namespace, device=device)
