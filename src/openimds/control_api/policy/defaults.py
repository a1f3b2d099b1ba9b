"""The default rules and the attributes of all services."""

from __future__ import annotations

from functools import cache

from oslo_policy.policy import RuleDefault

from openimds.control_api.compute import policies as compute
from openimds.control_api.identity import policies as identity
from openimds.control_api.image import policies as image
from openimds.control_api.network import policies as network
from openimds.control_api.policy.base import BASE_RULES, ResourceAttributes
from openimds.control_api.watch import policies as watch

RULES: tuple[RuleDefault, ...] = (
    *BASE_RULES,
    *identity.RULES,
    *network.RULES,
    *compute.RULES,
    *image.RULES,
    *watch.RULES,
)


@cache
def rules_by_name() -> dict[str, RuleDefault]:
    """All default rules by name."""
    return {rule.name: rule for rule in RULES}


def resources() -> tuple[ResourceAttributes, ...]:
    """The attributes of every resource that a client can create or update."""
    return (*network.RESOURCES, *compute.RESOURCES, *image.RESOURCES, *identity.RESOURCES)
