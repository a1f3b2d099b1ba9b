"""What a span of revisions changed, as far as instances' documents can tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Everything that was read before `revision` and has to do with one of these may be wrong now."""

    revision: int
    everything: bool = False
    """It cannot be told what changed: all of it may have."""
    instance_ids: frozenset[str] = frozenset()
    port_ids: frozenset[str] = frozenset()
    network_ids: frozenset[str] = frozenset()

    @property
    def is_nothing(self) -> bool:
        return not (self.everything or self.instance_ids or self.port_ids or self.network_ids)
