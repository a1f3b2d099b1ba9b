"""`/v3/auth`: issues, validates and revokes tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from openimds.control_api.context import AUTHENTICATED, AuthenticatedCaller, RequestContext, authorize
from openimds.control_api.identity import views
from openimds.control_api.identity.logins import client_address
from openimds.control_api.identity.protocols import IdentityService
from openimds.control_api.identity.schemas import AuthBody, DomainRef, IdentityPart, ProjectRef, ScopePart
from openimds.control_api.routing import ServiceRouter
from openimds.resources.errors import BadRequest, NotFound, NotSupported, Unauthorized
from openimds.resources.identity import DOMAIN_ID, DOMAIN_NAME, SYSTEM_TARGET, AccessInfo, Token, TokenScope

SubjectToken = Annotated[str, Header(alias="X-Subject-Token")]


def router(service: IdentityService) -> APIRouter:
    routes = ServiceRouter()

    @routes.post("/auth/tokens", status_code=201)
    async def create_token(request: Request, body: AuthBody, nocatalog: str | None = None) -> Response:
        user_id, parent = await _identify(service, body.auth.identity, client_address(request))
        return await run_in_threadpool(_issue, service, body, user_id, parent, with_catalog=nocatalog is None)

    @routes.get("/auth/tokens")
    def show_token(caller: AuthenticatedCaller, subject: SubjectToken, nocatalog: str | None = None) -> Response:
        token, access_info = _subject(service, caller, subject)
        return _token_answer(service, subject, token, access_info, with_catalog=nocatalog is None, status=200)

    @routes.head("/auth/tokens")
    def check_token(caller: AuthenticatedCaller, subject: SubjectToken) -> Response:
        _subject(service, caller, subject)
        return Response(status_code=200, headers={"X-Subject-Token": subject, "Vary": "X-Auth-Token"})

    @routes.delete("/auth/tokens", status_code=204)
    def revoke_token(caller: AuthenticatedCaller, subject: SubjectToken) -> None:
        token, _ = _subject(service, caller, subject)
        service.credentials.revoke(token)

    @routes.get("/auth/projects")
    def my_projects(caller: AuthenticatedCaller) -> dict[str, Any]:
        found = [item for item in service.assignments.projects_of(caller.user_id) if item.enabled]
        url = service.catalog.public_url
        return {"projects": [views.project(item, url) for item in found], "links": _links(url, "auth/projects")}

    @routes.get("/auth/domains", dependencies=AUTHENTICATED)
    def my_domains() -> dict[str, Any]:
        return {"domains": [], "links": _links(service.catalog.public_url, "auth/domains")}

    @routes.get("/auth/system")
    def my_system(caller: AuthenticatedCaller) -> dict[str, Any]:
        held = service.assignments.list(user_id=caller.user_id, target=SYSTEM_TARGET)
        return {
            "system": [{"all": True}] if held else [],
            "links": _links(service.catalog.public_url, "auth/system"),
        }

    return routes


def _issue(
    service: IdentityService, body: AuthBody, user_id: str, parent: Token | None, *, with_catalog: bool
) -> Response:
    scope = _scope(service, body.auth.scope, user_id, parent)
    access_info = service.credentials.access_info(user_id, scope)
    text, token = service.tokens.issue(user_id, scope, tuple(body.auth.identity.methods), parent)
    return _token_answer(service, text, token, access_info, with_catalog=with_catalog, status=201)


async def _identify(service: IdentityService, identity: IdentityPart, address: str) -> tuple[str, Token | None]:
    """Authenticates the client. Returns the user and, for the method token, the token."""
    unknown = [method for method in identity.methods if method not in {"password", "token"}]
    if unknown:
        raise NotSupported(f"Authentication by {unknown[0]} is not supported: use password or token.")
    if "token" in identity.methods:
        if identity.token is None:
            raise BadRequest("auth.identity.token", "the method token needs it")
        token, _ = await run_in_threadpool(service.tokens.check, identity.token.id.get_secret_value())
        return token.user_id, token
    if identity.password is None:
        raise BadRequest("auth.identity.password", "the method password needs it")
    user = identity.password.user
    if not user.id and not (user.name and user.domain):
        raise BadRequest("auth.identity.password.user", "needs an id, or a name with a domain")
    _only_default_domain(user.domain)
    password = user.password.get_secret_value()
    return await service.logins.user_id(address, password, user_id=user.id, name=user.name), None


def _scope(
    service: IdentityService, scope: ScopePart | str | dict[str, Any] | None, user_id: str, parent: Token | None
) -> TokenScope:
    if scope in ("unscoped", {"unscoped": {}}):
        return TokenScope()
    if scope is None:
        return parent.scope if parent else _default_scope(service, user_id)
    if not isinstance(scope, ScopePart):
        raise BadRequest("auth.scope", "is a project, the system, or unscoped")
    if scope.system:
        return TokenScope(system=True)
    if scope.project:
        return TokenScope(project_id=_project_id(service, scope.project))
    if scope.domain or scope.trust:
        raise Unauthorized(
            "Only a project or the system can be a token's scope: domains and trusts have no role assignments."
        )
    return TokenScope()


def _default_scope(service: IdentityService, user_id: str) -> TokenScope:
    """The scope of a request without one: the user's default project if the user has a role on it, else unscoped."""
    project_id = service.users.get(user_id).default_project_id
    if project_id is None:
        return TokenScope()
    try:
        service.credentials.access_info(user_id, TokenScope(project_id=project_id))
    except Unauthorized:
        return TokenScope()
    return TokenScope(project_id=project_id)


def _project_id(service: IdentityService, project: ProjectRef) -> str:
    if project.id:
        return project.id
    if not project.name or not project.domain:
        raise BadRequest("auth.scope.project", "needs an id, or a name with a domain")
    _only_default_domain(project.domain)
    try:
        return service.credentials.project_id_by_name(project.name)
    except NotFound as error:
        raise Unauthorized(error.message) from error


def _only_default_domain(domain: DomainRef | None) -> None:
    if domain and (domain.id or DOMAIN_ID, domain.name or DOMAIN_NAME) != (DOMAIN_ID, DOMAIN_NAME):
        raise Unauthorized(
            f"There is one domain, {DOMAIN_NAME} (id {DOMAIN_ID}), and no {domain.name or domain.id}: "
            "mind upper and lower case."
        )


def _subject(service: IdentityService, caller: RequestContext, subject: str) -> tuple[Token, AccessInfo]:
    """The token in X-Subject-Token. Only services and administrators may use tokens of other users."""
    try:
        token, access_info = service.tokens.check(subject)
    except Unauthorized as error:
        raise NotFound(f"This is not a recognized token. {error.message}") from error
    authorize(caller, "identity:validate_token", {"user_id": token.user_id})
    return token, access_info


def _token_answer(
    service: IdentityService, text: str, token: Token, access_info: AccessInfo, *, with_catalog: bool, status: int
) -> Response:
    body = views.token(token, access_info, service.catalog.entries())
    if not with_catalog:
        body.pop("catalog", None)
    return JSONResponse({"token": body}, status, headers={"X-Subject-Token": text, "Vary": "X-Auth-Token"})


def _links(public_url: str, path: str) -> dict[str, str | None]:
    return {"next": None, "previous": None, "self": f"{public_url}/v3/{path}"}
