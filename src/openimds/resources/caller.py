"""The caller of a store operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from openimds.resources.errors import Forbidden


class Rights(Protocol):
    """The decisions of the policy about one caller."""

    def permits(self, action: str, target: Mapping[str, Any]) -> bool:
        """Returns whether the rule of this name permits the action on an object with these properties."""
        ...

    def permits_attribute(self, action: str, attribute: str, target: Mapping[str, Any]) -> bool:
        """Returns whether the caller may set the attribute. True if the attribute has no rule of its own."""
        ...


class _Fixed:
    def __init__(self, *, permitted: bool) -> None:
        self._permitted = permitted

    def permits(self, action: str, target: Mapping[str, Any]) -> bool:
        return self._permitted

    def permits_attribute(self, action: str, attribute: str, target: Mapping[str, Any]) -> bool:
        return self._permitted


NO_RIGHTS: Rights = _Fixed(permitted=False)
ALL_RIGHTS: Rights = _Fixed(permitted=True)
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Project and rights of the caller, from the token's scope and roles."""

    project_id: str = ""
    """Empty for a token with system scope."""
    is_admin: bool = False
    """True if the rule `context_is_advsvc` permits it: for administrators and agents. They see and change resources of all
    projects."""
    rights: Rights = field(default=NO_RIGHTS, repr=False, compare=False)

    def owns(self, project_id: str) -> bool:
        """Returns True if the caller may use resources of the project."""
        return self.is_admin or (self.project_id != "" and self.project_id == project_id)

    def may(self, action: str, project_id: str, more: Mapping[str, Any] = _NOTHING) -> bool:
        """Returns whether the policy permits the action on a resource of the project. `more` are its other properties."""
        return self.rights.permits(action, {"project_id": project_id, "tenant_id": project_id, **more})

    def authorize(self, action: str, project_id: str, more: Mapping[str, Any] = _NOTHING) -> None:
        """Raises Forbidden unless the policy permits the action on a resource of the project."""
        if not self.may(action, project_id, more):
            raise Forbidden(f"Policy doesn't allow {action} to be performed.", kind="PolicyNotAuthorized")

    def forbidden_attributes(self, action: str, names: Iterable[str], target: Mapping[str, Any]) -> list[str]:
        """The attributes of a request that the caller may not set."""
        return [name for name in names if not self.rights.permits_attribute(action, name, target)]


SYSTEM = Caller(is_admin=True, rights=ALL_RIGHTS)
"""The caller of operations that openimds starts itself."""
