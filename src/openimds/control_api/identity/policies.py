"""The rules and attributes of Keystone's API, with Keystone's names."""

from __future__ import annotations

from oslo_policy.policy import DocumentedRuleDefault, RuleDefault

from openimds.control_api.identity import schemas
from openimds.control_api.policy.base import ADMIN, ADMIN_OR_SERVICE, ADMIN_OR_USER, ResourceAttributes, model_fields


def _rule(name: str, check: str, description: str, method: str, path: str) -> RuleDefault:
    return DocumentedRuleDefault(f"identity:{name}", check, description, [{"method": method, "path": f"/v3{path}"}])


_GRANTS = "/projects/{project_id}/users/{user_id}/roles"

RULES = (
    _rule(
        "validate_token", f"{ADMIN_OR_SERVICE} or rule:user_owner", "Validate or revoke a token.", "GET", "/auth/tokens"
    ),
    _rule("list_projects", ADMIN, "List projects.", "GET", "/projects"),
    _rule("create_project", ADMIN, "Create a project.", "POST", "/projects"),
    _rule(
        "get_project",
        f"{ADMIN} or rule:project_reader or True:%(has_role)s",
        "Show a project: the token's, or one on which the user has a role.",
        "GET",
        "/projects/{project_id}",
    ),
    _rule("update_project", ADMIN, "Change a project.", "PATCH", "/projects/{project_id}"),
    _rule("delete_project", ADMIN, "Delete a project.", "DELETE", "/projects/{project_id}"),
    _rule("list_users", ADMIN, "List users.", "GET", "/users"),
    _rule("create_user", ADMIN, "Create a user.", "POST", "/users"),
    _rule("get_user", ADMIN_OR_USER, "Show a user.", "GET", "/users/{user_id}"),
    _rule("update_user", ADMIN, "Change a user.", "PATCH", "/users/{user_id}"),
    _rule("delete_user", ADMIN, "Delete a user.", "DELETE", "/users/{user_id}"),
    _rule("list_user_projects", ADMIN_OR_USER, "List the projects of a user.", "GET", "/users/{user_id}/projects"),
    _rule("list_groups_for_user", ADMIN_OR_USER, "List the groups of a user.", "GET", "/users/{user_id}/groups"),
    _rule("list_roles", ADMIN, "List roles.", "GET", "/roles"),
    _rule("create_role", ADMIN, "Create a role.", "POST", "/roles"),
    _rule("get_role", ADMIN, "Show a role.", "GET", "/roles/{role_id}"),
    _rule("update_role", ADMIN, "Rename a role.", "PATCH", "/roles/{role_id}"),
    _rule("delete_role", ADMIN, "Delete a role.", "DELETE", "/roles/{role_id}"),
    _rule("list_domains", ADMIN, "List domains.", "GET", "/domains"),
    _rule("list_role_assignments", ADMIN_OR_USER, "List role assignments.", "GET", "/role_assignments"),
    _rule("list_grants", ADMIN, "List the roles of a user on a project or the system.", "GET", _GRANTS),
    _rule("check_grant", ADMIN, "Check one role of a user.", "HEAD", f"{_GRANTS}/{{role_id}}"),
    _rule("create_grant", ADMIN, "Assign a role to a user.", "PUT", f"{_GRANTS}/{{role_id}}"),
    _rule("revoke_grant", ADMIN, "Revoke a role of a user.", "DELETE", f"{_GRANTS}/{{role_id}}"),
)

RESOURCES = (
    ResourceAttributes(
        name="user",
        create="identity:create_user",
        update="identity:update_user",
        on_create=model_fields(schemas.UserFields),
        on_update=model_fields(schemas.UserChanges),
    ),
    ResourceAttributes(
        name="project",
        create="identity:create_project",
        update="identity:update_project",
        on_create=model_fields(schemas.ProjectFields),
        on_update=model_fields(schemas.ProjectChanges),
    ),
    ResourceAttributes(
        name="role",
        create="identity:create_role",
        update="identity:update_role",
        on_create=model_fields(schemas.RoleFields),
        on_update=("name",),
    ),
    ResourceAttributes(
        name="role assignment",
        create="identity:create_grant",
        update="",
        on_create=("project_id", "user_id", "role_id"),
        on_update=(),
    ),
)
