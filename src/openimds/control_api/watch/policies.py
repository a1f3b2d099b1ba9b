"""The rule of openimds' extension for agents."""

from __future__ import annotations

from oslo_policy.policy import RuleDefault

from openimds.control_api.policy.base import ADMIN_OR_SERVICE

RULES = (
    RuleDefault(
        "openimds:watch",
        ADMIN_OR_SERVICE,
        "Every call below /openimds/v1: the watch, instance records with user data and passwords, and agents' reports.",
    ),
)
