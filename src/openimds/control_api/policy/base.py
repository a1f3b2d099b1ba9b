"""Rules that the rules of the services refer to, and the declaration of the attributes of a resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from oslo_policy.policy import RuleDefault
from pydantic import BaseModel

TARGETS = frozenset(
    {"project_id", "tenant_id", "user_id", "network:project_id", "network:tenant_id", "network:shared", "has_role"}
)
"""The names that `%(…)s` in a rule can have: facts about the object of an action."""

CREDENTIALS = frozenset(
    {"user_id", "project_id", "tenant_id", "user_domain_id", "project_domain_id", "system_scope", "system", "is_admin_project"}
)  # fmt: skip
"""The names before the colon of a check, in addition to `role` and `rule`: facts about the caller."""

ADMIN = "rule:context_is_admin"
ADMIN_OR_SERVICE = "rule:context_is_advsvc"
ADMIN_OR_MEMBER = "rule:context_is_admin or rule:project_member"
ADMIN_OR_READER = "rule:context_is_admin or rule:project_reader"
SERVICE_OR_MEMBER = "rule:context_is_advsvc or rule:project_member"
SERVICE_OR_NETWORK_OWNER = "rule:context_is_advsvc or rule:network_owner"
ADMIN_OR_USER = "rule:context_is_admin or rule:user_owner"
ADMIN_OR_WRITING_USER = "rule:context_is_admin or (rule:user_owner and (role:member or role:service))"
EVERYONE = "@"

WRITE = "openimds:write"

BASE_RULES = (
    RuleDefault("context_is_admin", "role:admin", "An administrator, who sees and changes the resources of all projects."),
    RuleDefault("service_api", "role:service", "An agent, or another service."),
    RuleDefault(
        "context_is_advsvc",
        "rule:context_is_admin or rule:service_api",
        "A caller with the rights of an administrator in the network API. Agents need them.",
    ),
    RuleDefault(
        "project_member",
        "(role:member or role:service) and project_id:%(project_id)s",
        "A member of the project that the resource belongs to.",
    ),
    RuleDefault("project_reader", "project_id:%(project_id)s", "Any role in the project that the resource belongs to."),
    RuleDefault("user_owner", "user_id:%(user_id)s", "The user that the resource belongs to."),
    RuleDefault("network_owner", "project_id:%(network:project_id)s", "The project of the port's network."),
    RuleDefault("shared", "True:%(network:shared)s", "A port on a network that all projects share."),
    RuleDefault(
        WRITE,
        "role:admin or role:member or role:service",
        "Any request that is not GET or HEAD, outside /v3. It is checked before the body is parsed, and the rule of the "
        "action after it. A token with the role reader alone changes nothing.",
    ),
)  # fmt: skip


def model_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of a request body's fields as clients write them."""
    return tuple(info.alias or name for name, info in model.model_fields.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceAttributes:
    """The attributes that a client can set on one kind of resource, and the rules that decide about them."""

    name: str
    create: str
    """The rule of the creation. Empty if there is none."""
    update: str
    """The rule of the update. Empty if there is none."""
    on_create: tuple[str, ...]
    on_update: tuple[str, ...]
    rules: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(rule of the action, attribute) → rule, where it is not `<rule of the action>:<attribute>`."""

    unset_only: frozenset[str] = frozenset()
    """Attributes that openimds does not implement. It accepts the value that means "not used"."""

    def rule(self, action: str, attribute: str) -> str:
        """The name of the rule for one attribute. The rule need not exist: then the rule of the action decides alone."""
        return self.rules.get((action, attribute), f"{action}:{attribute}")
