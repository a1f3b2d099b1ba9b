"""Who asks, as the store needs to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What the token's scope and roles come to."""

    project_id: str = ""
    """Empty for a token with system scope."""
    is_admin: bool = False
    """Sees and changes every project's resources, and may set what only operators may. True for agents, too."""

    def owns(self, project_id: str) -> bool:
        """May it change what belongs to `project_id`?"""
        return self.is_admin or (self.project_id != "" and self.project_id == project_id)


SYSTEM = Caller(is_admin=True)
"""For work that openimds does on its own behalf."""
