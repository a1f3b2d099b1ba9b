"""For how long something is believed, and how long a guest is held while it cannot be told who asks."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

HOLD_SECONDS = 8.0
"""Below the 10 s that cloud-init waits for an answer."""
FOUND_SECONDS = 2.0
"""A boot's requests come in one go."""
NEGATIVE_TTL_SECONDS = 1.0
"""How long it is believed that nobody is there. The mirror is asked first and hears of a new port at once."""
LOOK_SECONDS = 8.0
"""How long a look at the control API may take."""
KNOWN_LOOK_SECONDS = 1.0
"""How long somebody whom the mirror knew last waits for a look."""
AWAY_SECONDS = 1.0
"""How long a control API that did not answer is not asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupPolicy:
    found_seconds: float = FOUND_SECONDS
    """How long a look's find is believed where there is no watch (a real Neutron)."""
    max_age_seconds: float = inf
    """What has not been kept up for longer is not believed."""
    hold_seconds: float = HOLD_SECONDS
