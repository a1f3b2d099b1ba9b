"""The rules and attributes of Neutron's API, with Neutron's names.

The rules of an attribute concern its change. A client may send the present value, or the default of a new resource.
"""

from __future__ import annotations

from oslo_policy.policy import DocumentedRuleDefault, RuleDefault

from openimds.control_api.network.attributes import ATTRIBUTE_MAP, KIND_BY_COLLECTION, MustBeUnset
from openimds.control_api.policy.base import (
    ADMIN_OR_SERVICE,
    SERVICE_OR_MEMBER,
    SERVICE_OR_NETWORK_OWNER,
    ResourceAttributes,
)

_COLLECTIONS = {kind: collection for collection, kind in KIND_BY_COLLECTION.items()}
_CHECKS = {"delete_port": f"{SERVICE_OR_MEMBER} or (rule:network_owner and (role:member or role:service))"}


def _actions(kind: str) -> list[RuleDefault]:
    path = f"/network/v2.0/{_COLLECTIONS[kind]}"
    title = kind.replace("_", " ")
    return [
        DocumentedRuleDefault(
            f"{verb}_{kind}",
            _CHECKS.get(f"{verb}_{kind}", SERVICE_OR_MEMBER),
            f"{verb.capitalize()} a {title}.",
            [{"method": method, "path": place}],
        )
        for verb, method, place in (
            ("create", "POST", path),
            ("update", "PUT", f"{path}/{{id}}"),
            ("delete", "DELETE", f"{path}/{{id}}"),
        )
    ]


def _attribute(
    kind: str, attribute: str, check: str, description: str, verbs: str = "create update"
) -> list[RuleDefault]:
    return [RuleDefault(f"{verb}_{kind}:{attribute}", check, description) for verb in verbs.split()]


RULES = (
    *(rule for kind in ATTRIBUTE_MAP for rule in _actions(kind)),
    *_attribute("network", "shared", ADMIN_OR_SERVICE, "Share a network with all projects, or end that."),
    *_attribute("network", "router:external", ADMIN_OR_SERVICE, "Make a network external, or end that."),
    *_attribute("network", "provider:network_type", ADMIN_OR_SERVICE, "Choose the kind of a network's segment.", "create"),
    *_attribute("network", "provider:physical_network", ADMIN_OR_SERVICE, "Choose the physical network.", "create"),
    *_attribute("network", "provider:segmentation_id", ADMIN_OR_SERVICE, "Choose the segment's id.", "create"),
    *_attribute(
        "subnet", "tags:metadata-provider", ADMIN_OR_SERVICE, "Add or remove a tag that names a metadata provider."
    ),
    RuleDefault(
        "create_port:network_id",
        f"{SERVICE_OR_NETWORK_OWNER} or rule:shared",
        "Create a port on this network. An external network that is not shared is for routers and floating IPs.",
    ),
    *_attribute("port", "mac_address", SERVICE_OR_NETWORK_OWNER, "Choose the MAC address of a new port.", "create"),
    *_attribute("port", "mac_address", ADMIN_OR_SERVICE, "Change the MAC address of a port.", "update"),
    *_attribute("port", "fixed_ips:ip_address", SERVICE_OR_NETWORK_OWNER, "Choose an address and not only a subnet."),
    *_attribute("port", "port_security_enabled", SERVICE_OR_NETWORK_OWNER, "Switch port security on or off."),
    *_attribute("port", "allowed_address_pairs", SERVICE_OR_NETWORK_OWNER, "Permit further addresses."),
    *_attribute("port", "device_owner", ADMIN_OR_SERVICE, "Set a device owner that begins with `network:`."),
    *_attribute("port", "binding:host_id", ADMIN_OR_SERVICE, "Bind a port to a host."),
    *_attribute("port", "binding:profile", ADMIN_OR_SERVICE, "Set the binding profile of a port."),
    *_attribute(
        "router", "external_gateway_info:enable_snat", ADMIN_OR_SERVICE, "Set source NAT to another value than the present."
    ),
    *_attribute(
        "router", "external_gateway_info:external_fixed_ips", ADMIN_OR_SERVICE, "Choose the external addresses of a router."
    ),
    *_attribute("floatingip", "floating_ip_address", ADMIN_OR_SERVICE, "Choose the floating address.", "create"),
    RuleDefault("add_router_interface", SERVICE_OR_MEMBER, "Attach a subnet or a port: of the router, and of the network."),
    RuleDefault("remove_router_interface", SERVICE_OR_MEMBER, "Detach a subnet or a port."),
    RuleDefault("add_extraroutes", SERVICE_OR_MEMBER, "Add extra routes to a router."),
    RuleDefault("remove_extraroutes", SERVICE_OR_MEMBER, "Remove extra routes of a router."),
    RuleDefault("get_network_ip_availability", ADMIN_OR_SERVICE, "See how many addresses of each network are in use."),
    RuleDefault("get_agent", ADMIN_OR_SERVICE, "List and show agents."),
    RuleDefault("delete_agent", ADMIN_OR_SERVICE, "Delete an agent."),
    RuleDefault("get_quota", f"{ADMIN_OR_SERVICE} or rule:project_reader", "Show the quotas of a project and their use."),
)  # fmt: skip

_PARTS = {
    "port": {"device_owner: network:*": "device_owner", "fixed_ips:ip_address": "fixed_ips:ip_address"},
    "router": {
        "external_gateway_info:enable_snat": "external_gateway_info:enable_snat",
        "external_gateway_info:external_fixed_ips": "external_gateway_info:external_fixed_ips",
    },
    "subnet": {"tags:metadata-provider": "tags:metadata-provider"},
}
"""Parts of an attribute's values that have a rule of their own → the rule without its action."""

_OWN_ROUTES = ("tags",)
"""Attributes that are updated by routes of their own, with the rule of the update."""


def _resource(kind: str) -> ResourceAttributes:
    table = ATTRIBUTE_MAP[kind]
    parts = _PARTS.get(kind, {})
    attributes = {**table, **{part: table[part.split(":", 1)[0]] for part in parts}}
    actions = (f"create_{kind}", f"update_{kind}")
    return ResourceAttributes(
        name=kind,
        create=actions[0],
        update=actions[1],
        on_create=tuple(name for name, attribute in attributes.items() if attribute.create),
        on_update=tuple(
            name for name, attribute in attributes.items() if attribute.update or name.split(":", 1)[0] in _OWN_ROUTES
        ),
        rules={
            **{(action, part): f"{action}:{rule}" for part, rule in parts.items() for action in actions},
            **({(action, "device_owner"): action for action in actions} if kind == "port" else {}),
        },
        unset_only=frozenset(name for name, attribute in table.items() if isinstance(attribute.check, MustBeUnset)),
    )


RESOURCES = tuple(_resource(kind) for kind in ATTRIBUTE_MAP)
