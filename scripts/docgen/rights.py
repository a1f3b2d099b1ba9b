"""The page of attributes and the callers who may set them, from the rules and attributes that the control API enforces."""

from __future__ import annotations

from openimds.control_api.policy.base import ResourceAttributes
from openimds.control_api.policy.defaults import RULES, resources, rules_by_name
from openimds.control_api.policy.enforcer import Credentials, default_policy

OWN, OTHER, USER = "project", "other-project", "user"

_HEADING = """\
# Rights by attribute

`make docs` writes this page from the rules and the attribute tables that the control API enforces, and
`tests/contract/control/test_rights.py` sends each of these attributes as each of these callers. An operator overrides
rules in `policy.yaml` ([configuration](configuration.md)).

Security group rules, quotas and agents have no attribute that a request can set (501).

The callers are an administrator (role `admin`), an agent (`service`), the network's owner (a member of the project of the
port's network), and a member of the resource's project. A reader of the project sets nothing (403). A member of another
project sets nothing, and gets 403 or 404. `—` means that the request does not have the attribute. A † marks an attribute that
openimds does not implement: it accepts the value that means "not used".

A member names no other project than its own in `project_id`, `tenant_id` and `owner`, and no other user in `user_id`. The
rule in parentheses decides about the attribute, in addition to the rule of the action.
"""

_CALLERS = (
    ("administrator", Credentials(user_id="a", project_id="admin", roles=frozenset({"admin"})), False),
    ("agent", Credentials(user_id="s", project_id="service", roles=frozenset({"service"})), False),
    ("member", Credentials(user_id=USER, project_id=OWN, roles=frozenset({"member"})), False),
    ("network's owner", Credentials(user_id=USER, project_id=OWN, roles=frozenset({"member"})), True),
)


def rights_page() -> str:
    """The text of docs/rights.md."""
    lines = [_HEADING]
    for resource in resources():
        lines += [f"## {resource.name.replace('_', ' ')}", "", "| attribute | create | update |", "| --- | --- | --- |"]
        names = dict.fromkeys((*resource.on_create, *resource.on_update))
        lines += [
            f"| `{name}`{' †' if name in resource.unset_only else ''} | {_cell(resource, resource.create, name, resource.on_create)} "
            f"| {_cell(resource, resource.update, name, resource.on_update)} |"
            for name in names
        ]
        lines.append("")
    lines += ["## Rules", "", "| rule | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{rule.name}` | `{rule.check_str}` | {rule.description} |" for rule in RULES]
    return "\n".join([*lines, ""])


def _cell(resource: ResourceAttributes, action: str, attribute: str, accepted: tuple[str, ...]) -> str:
    if not action or attribute not in accepted:
        return "—"
    rule = resource.rule(action, attribute)
    rules = [action, *([rule] if rule in rules_by_name() else [])]
    found = [name for name, caller, owns in _CALLERS if _permits(rules, caller, owns_network=owns)]
    if "member" in found:
        found.remove("network's owner")
    return f"{', '.join(found)} (`{rules[-1]}`)" if len(rules) > 1 else ", ".join(found)


def _permits(rules: list[str], caller: Credentials, *, owns_network: bool) -> bool:
    network = OWN if owns_network else OTHER
    target = {
        "project_id": OWN,
        "tenant_id": OWN,
        "user_id": USER,
        "network:project_id": network,
        "network:tenant_id": network,
        "network:shared": True,
    }
    return all(default_policy().permits(caller, rule, target) for rule in rules)
