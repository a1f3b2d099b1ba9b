"""The caller of a store operation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Project and rights of the caller, from the token's scope and roles."""

    project_id: str = ""
    """Empty for a token with system scope."""
    is_admin: bool = False
    """True for administrators and agents. They see and change resources of all projects, and may set attributes that are
    reserved for operators."""

    def owns(self, project_id: str) -> bool:
        """Returns True if the caller may change resources of the project."""
        return self.is_admin or (self.project_id != "" and self.project_id == project_id)


SYSTEM = Caller(is_admin=True)
"""The caller of operations that openimds starts itself."""
