"""Who asks: the request's context, from its token, and the questions that policies ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from openimds.control_api.error_handlers import is_under
from openimds.resources.errors import Forbidden, NotFound, Unauthorized

ROLE_ADMIN = "admin"
ROLE_MEMBER = "member"
ROLE_SERVICE = "service"

READ_METHODS = frozenset({"GET", "HEAD"})
IDENTITY_ROOT = "/v3"
"""Identity's calls have policies of their own: anybody may change a password of theirs and give a token back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """One request's caller. Roles are those that hold now, not those of the time when the token was made."""

    user_id: str
    project_id: str
    """Empty when the token has system scope or none."""
    roles: frozenset[str] = frozenset()
    system: bool = False
    request_id: str = ""
    user_name: str = ""
    token: str = field(default="", repr=False)
    """As it was sent; never logged."""

    @property
    def is_admin(self) -> bool:
        return ROLE_ADMIN in self.roles

    @property
    def is_service(self) -> bool:
        """May use what agents use: admin may as well."""
        return self.is_admin or ROLE_SERVICE in self.roles

    def sees(self, project_id: str) -> bool:
        """Is what belongs to `project_id` this caller's to see?"""
        return self.is_admin or (bool(self.project_id) and self.project_id == project_id)


class TokenAuthenticator(Protocol):
    """Turns a token into the caller it speaks for."""

    def context(self, token: str, request_id: str) -> RequestContext:
        """Raises Unauthorized for a token that is unknown, expired or revoked."""
        ...


def current_context(request: Request) -> RequestContext:
    """FastAPI dependency: the caller. Raises Unauthorized (401) without a good X-Auth-Token.

    `request.url` is not used: its path depends on the header `Host` in some versions of Starlette.
    """
    token = request.headers.get("x-auth-token", "")
    if not token:
        raise Unauthorized("The request you have made requires authentication: it carries no X-Auth-Token.")
    authenticator: TokenAuthenticator = request.app.state.authenticator
    context = authenticator.context(token, request_id(request))
    if request.method not in READ_METHODS and not is_under(request.scope["path"], IDENTITY_ROOT):
        _require_writer(context)
    return context


def request_id(request: Request) -> str:
    """`req-<uuid>`, given to every request by access.py; also in the answer's headers and in the log."""
    return str(getattr(request.state, "request_id", ""))


def project_context(context: Annotated[RequestContext, Depends(current_context)]) -> RequestContext:
    """Dependency: a caller whose token has a project (or who is admin)."""
    if not context.project_id and not context.is_admin:
        raise Forbidden(
            "This needs a token with a project's scope; the one sent has none. Authenticate with a project."
        )
    return context


def _require_writer(context: RequestContext) -> None:
    """The role reader reads, as in OpenStack's own default policies."""
    if not context.roles & {ROLE_ADMIN, ROLE_MEMBER, ROLE_SERVICE}:
        raise Forbidden("Policy doesn't allow this to be performed: it changes something, which needs the role member.")


def require_admin(context: RequestContext, action: str) -> None:
    """`action` as in `identity:create_project`. Raises Forbidden for everybody but an administrator."""
    if not context.is_admin:
        raise Forbidden(f"You are not authorized to perform the requested action: {action}. It needs the role admin.")


def require_service(context: RequestContext, action: str) -> None:
    """Raises Forbidden for everybody but agents and administrators."""
    if not context.is_service:
        raise Forbidden(
            f"You are not authorized to perform the requested action: {action}. It needs the role service or admin."
        )


def require_project(context: RequestContext, project_id: str, what: str) -> None:
    """`what` is the sentence's subject, `Server 7f…`. Another project's thing is not there (404), not forbidden."""
    if not context.sees(project_id):
        raise NotFound(f"{what} could not be found.")


AuthenticatedCaller = Annotated[RequestContext, Depends(current_context)]
"""An endpoint's parameter: whoever has a good token."""

AUTHENTICATED = (Depends(current_context),)
"""A route's `dependencies`, where a good token is all that is asked and the endpoint needs to know nothing of it."""

ProjectCaller = Annotated[RequestContext, Depends(project_context)]
"""An endpoint's parameter: whoever has a token with a project."""


def require_agent_role(asker: AuthenticatedCaller) -> None:
    """A router's dependency: what agents ask and tell. Raises Forbidden."""
    require_service(asker, "openimds:watch")
