"""fe80::a9fe:a9fe on a network that several hosts serve: the first one has it, and the others leave it to that one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from openimds.agents.protocols import NetworkConfigurator
from openimds.netconfig.addresses import METADATA_IPV6, METADATA_IPV6_ON_DEVICE
from openimds.netconfig.namespace_state import NamespaceState

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 600.0
"""Between two tries to take the address back, which the whole segment hears of; each is twice as long as the one before.
Once the other does not answer for it any more, there is one at once."""

logger = structlog.get_logger(__name__)


class Ipv6MetadataAddress:
    """Whose it is, seen by the kernel's duplicate address detection; looked for again from time to time, so that it is
    taken back when the other has gone. A duplicate is no failure.
    """

    def __init__(self, kernel: NetworkConfigurator, clock: Callable[[], float] = time.monotonic) -> None:
        self._kernel = kernel
        self._clock = clock
        self._tries: dict[tuple[str, str], tuple[float, float]] = {}
        """By namespace and device: when to try next, and the pause after it."""
        self.elsewhere: Mapping[str, frozenset[str]] = {}
        """By network or router: the devices on which another host answers. Replaced whole."""

    def check(self, key: str, state: NamespaceState) -> tuple[str, ...]:
        """No words: nothing that is ours was changed. Raises what looking raises."""
        before = self.elsewhere.get(key, frozenset())
        devices = [device.name for device in state.devices if METADATA_IPV6_ON_DEVICE in (device.addresses or ())]
        now = frozenset(name for name in devices if self._is_elsewhere(state.name, name, was=name in before))
        _tell(state.name, before, now)
        self.elsewhere = {**self.elsewhere, key: now}
        gone = [(name, device) for name, device in self._tries if name == state.name and device not in now]
        for one in gone:
            del self._tries[one]
        return ()

    def forget(self, key: str) -> None:
        self.elsewhere = {other: devices for other, devices in self.elsewhere.items() if other != key}

    def _is_elsewhere(self, namespace: str, device: str, *, was: bool) -> bool:
        found = self._kernel.dad_state(namespace, device, METADATA_IPV6_ON_DEVICE)
        if found is None or found.is_tentative:
            return was
        if found.is_duplicate:
            self._try_at_times(namespace, device, at_once=found.is_unanswered)
        else:
            self._tries.pop((namespace, device), None)
        return found.is_duplicate

    def _try_at_times(self, namespace: str, device: str, *, at_once: bool) -> None:
        now = self._clock()
        due, pause = self._tries.get((namespace, device), (now + FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS))
        if at_once or now >= due:
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            due = now + pause
            self._kernel.restart_dad(namespace, device, METADATA_IPV6_ON_DEVICE)
        self._tries[namespace, device] = (due, pause)


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
