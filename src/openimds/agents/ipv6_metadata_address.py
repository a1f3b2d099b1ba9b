"""Tracks the owner of fe80::a9fe:a9fe on a network that several hosts serve: the first host keeps the address."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from openimds.agents.protocols import NetworkConfigurator
from openimds.netconfig.addresses import METADATA_IPV6, METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import NamespaceState

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 600.0
"""The pause between two attempts to take the address over, which doubles each time because every attempt sends to the
whole segment. An attempt follows immediately when the other host stops answering."""

logger = structlog.get_logger(__name__)


class Ipv6MetadataAddress:
    """Reads from the kernel's duplicate address detection (RFC 4862) whether another host has the address.

    In that case the detection is restarted from time to time, so that this host takes the address over after the other
    host has gone. A duplicate address is not a failure.
    """

    def __init__(self, configurator: NetworkConfigurator, clock: Callable[[], float] = time.monotonic) -> None:
        self._configurator = configurator
        self._clock = clock
        self._attempts: dict[tuple[str, str], tuple[float, float]] = {}
        """The time of the next attempt and the pause after it, by (namespace, device)."""
        self.duplicates: Mapping[str, frozenset[str]] = {}
        """The devices on which another host has the address, by network or router. Replaced as a whole."""

    def check(self, key: str, state: NamespaceState) -> tuple[str, ...]:
        """Updates `duplicates`. Returns no changes, because it configures nothing. Raises the configurator's errors."""
        before = self.duplicates.get(key, frozenset())
        devices = [device.name for device in state.devices if METADATA_IPV6_ON_DEVICE in (device.addresses or ())]
        now = frozenset(name for name in devices if self._is_duplicate(state.name, name, before=name in before))
        _log_changes(state.name, before, now)
        self.duplicates = {**self.duplicates, key: now}
        for attempt in [(name, device) for name, device in self._attempts if name == state.name and device not in now]:
            del self._attempts[attempt]
        return ()

    def forget(self, key: str) -> None:
        self.duplicates = {other: devices for other, devices in self.duplicates.items() if other != key}

    def _is_duplicate(self, namespace: str, device: str, *, before: bool) -> bool:
        dad = self._configurator.dad_state(namespace, device, METADATA_IPV6_ON_DEVICE)
        if dad is None or dad.is_tentative:
            return before
        if dad.is_duplicate:
            self._restart_when_due(namespace, device, immediately=dad.is_unanswered)
        else:
            self._attempts.pop((namespace, device), None)
        return dad.is_duplicate

    def _restart_when_due(self, namespace: str, device: str, *, immediately: bool) -> None:
        now = self._clock()
        due, pause = self._attempts.get((namespace, device), (now + MIN_PAUSE_SECONDS, MIN_PAUSE_SECONDS))
        if immediately or now >= due:
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            due = now + pause
            self._configurator.restart_dad(namespace, device, METADATA_IPV6_ON_DEVICE)
        self._attempts[namespace, device] = (due, pause)


def _log_changes(namespace: str, before: frozenset[str], now: frozenset[str]) -> None:
    for device in sorted(now - before):
        logger.info(
            "metadata address in use by another host", address=METADATA_IPV6, namespace=namespace, device=device
        )
    for device in sorted(before - now):
        logger.info("metadata address taken over", address=METADATA_IPV6, namespace=namespace, device=device)
