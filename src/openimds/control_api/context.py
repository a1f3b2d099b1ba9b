"""The authenticated caller of a request, and the checks of the policy about the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from openimds.control_api.error_handlers import is_under
from openimds.control_api.policy.base import ADMIN, ADMIN_OR_SERVICE, WRITE
from openimds.control_api.policy.enforcer import Credentials, Policy, default_policy
from openimds.resources.caller import Caller
from openimds.resources.compute import Requester
from openimds.resources.errors import Forbidden, NotFound, Unauthorized

READ_METHODS = frozenset({"GET", "HEAD"})
NEEDED_ROLES = {ADMIN: "It needs the role admin.", ADMIN_OR_SERVICE: "It needs the role service or admin."}
"""Sentences for frequent checks."""
IDENTITY_ROOT = "/v3"
"""Keystone's API has its own policies: users without the role member may change their password and revoke a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The caller of one request, with the roles at the time of the request."""

    user_id: str
    project_id: str
    """Empty if the token has system scope or no scope."""
    roles: frozenset[str] = frozenset()
    system: bool = False
    request_id: str = ""
    user_name: str = ""
    token: str = field(default="", repr=False)
    """The token as it was received. It is never logged."""

    policy: Policy = field(default_factory=default_policy, repr=False, compare=False)
    """The rules in force. `current_context` sets it."""

    @property
    def credentials(self) -> Credentials:
        return Credentials(user_id=self.user_id, project_id=self.project_id, roles=self.roles, system=self.system)

    def permits(self, action: str, target: Mapping[str, Any]) -> bool:
        """Returns whether the policy permits the action on an object with these properties."""
        return self.policy.permits(self.credentials, action, target)

    def permits_attribute(self, action: str, attribute: str, target: Mapping[str, Any]) -> bool:
        """Returns whether the caller may set the attribute. True if the attribute has no rule of its own."""
        rule = f"{action}:{attribute}"
        return not self.policy.has(rule) or self.permits(rule, target)

    @property
    def is_admin(self) -> bool:
        return self.permits("context_is_admin", {})

    @property
    def is_service(self) -> bool:
        """True for agents and administrators."""
        return self.permits("context_is_advsvc", {})

    @property
    def requester(self) -> Requester:
        """The caller for the stores of compute and image."""
        return Requester(
            user_id=self.user_id,
            project_id=self.project_id,
            request_id=self.request_id,
            is_admin=self.is_admin,
            rights=self,
        )

    @property
    def network_caller(self) -> Caller:
        """The caller for the store of the network API, where agents have the rights of administrators."""
        return Caller(project_id=self.project_id, is_admin=self.is_service, rights=self)

    def sees(self, project_id: str) -> bool:
        """Returns True if the caller may see resources of the project."""
        return self.is_admin or (bool(self.project_id) and self.project_id == project_id)


class TokenAuthenticator(Protocol):
    """Verifies tokens."""

    def context(self, token: str, request_id: str) -> RequestContext:
        """The caller that the token was issued to. Raises Unauthorized for an invalid, expired or revoked token."""
        ...


def current_context(request: Request) -> RequestContext:
    """FastAPI dependency: the caller. Raises Unauthorized (401) without a valid X-Auth-Token.

    `AuthenticatingRoute` calls this before the body is read, and the dependency then returns the same context.
    The path is not read from `request.url`, which depends on the header `Host` in some versions of Starlette.
    """
    known: RequestContext | None = getattr(request.state, "context", None)
    if known is not None:
        return known
    token = request.headers.get("x-auth-token", "")
    if not token:
        raise Unauthorized("The request you have made requires authentication: it carries no X-Auth-Token.")
    authenticator: TokenAuthenticator = request.app.state.authenticator
    policy: Policy = request.app.state.policy
    context = replace(authenticator.context(token, request_id(request)), policy=policy)
    if request.method not in READ_METHODS and not is_under(request.scope["path"], IDENTITY_ROOT):
        _require_writer(context)
    request.state.context = context
    return context


def request_id(request: Request) -> str:
    """The id `req-<uuid>` that the middleware gave the request. The response's headers and the log have it too."""
    return str(getattr(request.state, "request_id", ""))


def project_context(context: Annotated[RequestContext, Depends(current_context)]) -> RequestContext:
    """FastAPI dependency: a caller with a project's scope or the role admin. Raises Forbidden (403) for others."""
    if not context.project_id and not context.is_admin:
        raise Forbidden(
            "This needs a token with a project's scope; the one sent has none. Authenticate with a project."
        )
    return context


def _require_writer(context: RequestContext) -> None:
    """Rejects changes by callers with only the role reader, as OpenStack's default policies do."""
    if not context.permits(WRITE, {}):
        raise Forbidden("Policy doesn't allow this to be performed: it changes something, which needs the role member.")


def authorize(context: RequestContext, action: str, target: Mapping[str, Any] | None = None) -> None:
    """Raises Forbidden unless the policy permits the action (`identity:create_project`).

    Without a target, the action is on the caller's own project and user.
    """
    own = {"project_id": context.project_id, "tenant_id": context.project_id, "user_id": context.user_id}
    if not context.permits(action, own if target is None else target):
        needed = NEEDED_ROLES.get(context.policy.check_text(action), "Policy doesn't allow it.")
        raise Forbidden(f"You are not authorized to perform the requested action: {action}. {needed}")


def require_project(context: RequestContext, project_id: str, what: str) -> None:
    """Raises NotFound (404) for resources of another project. `what` is the subject of the message: `Server 7f…`."""
    if not context.sees(project_id):
        raise NotFound(f"{what} could not be found.")


AuthenticatedCaller = Annotated[RequestContext, Depends(current_context)]
"""Parameter of an endpoint: a caller with a valid token."""

AUTHENTICATED = (Depends(current_context),)
"""`dependencies` of a route that needs a valid token and does not use the caller."""

ProjectCaller = Annotated[RequestContext, Depends(project_context)]
"""Parameter of an endpoint: a caller whose token has a project."""


def require_agent_role(caller: AuthenticatedCaller) -> None:
    """FastAPI dependency of the extension for agents. Raises Forbidden (403)."""
    authorize(caller, "openimds:watch")
