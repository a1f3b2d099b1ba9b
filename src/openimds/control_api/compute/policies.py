"""The rules and attributes of Nova's API, with Nova's names."""

from __future__ import annotations

from oslo_policy.policy import DocumentedRuleDefault, RuleDefault

from openimds.control_api.compute import schemas
from openimds.control_api.policy.base import (
    ADMIN,
    ADMIN_OR_MEMBER,
    ADMIN_OR_READER,
    ADMIN_OR_USER,
    ADMIN_OR_WRITING_USER,
    EVERYONE,
    ResourceAttributes,
    model_fields,
)

REQUESTED_DESTINATION = "compute:servers:create:requested_destination"
EXTENDED_ATTRIBUTES = "os_compute_api:os-extended-server-attributes"
ALL_FILTERS = "os_compute_api:servers:allow_all_filters"
ALL_TENANTS = "os_compute_api:servers:detail:get_all_tenants"


def _rule(name: str, check: str, description: str, method: str, path: str) -> RuleDefault:
    return DocumentedRuleDefault(
        f"os_compute_api:{name}", check, description, [{"method": method, "path": f"/compute/v2.1{path}"}]
    )


def _act(name: str, description: str, path: str = "action", method: str = "POST") -> RuleDefault:
    return _rule(name, ADMIN_OR_MEMBER, description, method, f"/servers/{{server_id}}/{path}")


def _see(name: str, description: str, path: str, method: str = "GET") -> RuleDefault:
    return _rule(name, ADMIN_OR_READER, description, method, f"/servers/{{server_id}}/{path}")


def _key(verb: str, check: str, method: str, path: str = "") -> RuleDefault:
    return _rule(f"os-keypairs:{verb}", check, f"{verb.capitalize()} key pairs.", method, f"/os-keypairs{path}")


_SPECS = "/flavors/{flavor_id}/os-extra_specs"

RULES = (
    _rule("servers:create", ADMIN_OR_MEMBER, "Create a server.", "POST", "/servers"),
    RuleDefault(REQUESTED_DESTINATION, ADMIN, "Choose the host of a new server."),
    _rule("servers:show", ADMIN_OR_READER, "Show a server.", "GET", "/servers/{server_id}"),
    RuleDefault(ALL_TENANTS, ADMIN, "List the servers of all projects."),
    RuleDefault(ALL_FILTERS, ADMIN, "Filter servers by host and user, and sort them by host."),
    RuleDefault(EXTENDED_ATTRIBUTES, ADMIN, "See the attributes of a server that tell its host, user data and reservation."),
    _rule("servers:update", ADMIN_OR_MEMBER, "Change a server.", "PUT", "/servers/{server_id}"),
    _rule("servers:delete", ADMIN_OR_MEMBER, "Delete a server.", "DELETE", "/servers/{server_id}"),
    _act("servers:reboot", "Reboot a server."),
    _act("servers:start", "Start a server."),
    _act("servers:stop", "Stop a server."),
    _act("servers:rebuild", "Rebuild a server from an image."),
    _act("os-lock-server:lock", "Lock a server."),
    _act("os-lock-server:unlock", "Unlock a server."),
    _rule(
        "os-lock-server:unlock:unlock_override",
        ADMIN,
        "Unlock a server that an administrator locked.",
        "POST",
        "/servers/{server_id}/action",
    ),
    _act("os-security-groups:add", "Add a server to a security group."),
    _act("os-security-groups:remove", "Remove a server from a security group."),
    _see("os-security-groups:list", "List the security groups of a server.", "os-security-groups"),
    _see("os-console-output", "Read the console log of a server.", "action", "POST"),
    _act("server-metadata:update", "Change the metadata of a server.", "metadata", "PUT"),
    _act("os-server-tags:update", "Change the tags of a server.", "tags", "PUT"),
    _act("os-attach-interfaces:create", "Attach a NIC.", "os-interface"),
    _act("os-attach-interfaces:delete", "Detach a NIC.", "os-interface/{port_id}", "DELETE"),
    _see("os-attach-interfaces:list", "List the NICs of a server.", "os-interface"),
    _see("os-server-password:show", "Read the encrypted password of a server.", "os-server-password"),
    _act("os-server-password:clear", "Clear the password of a server.", "os-server-password", "DELETE"),
    _see("os-instance-actions:list", "List the actions on a server.", "os-instance-actions"),
    RuleDefault(
        "network:attach_external_network",
        ADMIN_OR_READER,
        "Attach a NIC to an external network that is not shared. The project is the network's.",
    ),
    _key("index", ADMIN_OR_USER, "GET"),
    _key("show", ADMIN_OR_USER, "GET", "/{name}"),
    _key("create", ADMIN_OR_WRITING_USER, "POST"),
    _key("delete", ADMIN_OR_WRITING_USER, "DELETE", "/{name}"),
    _rule("os-flavor-manage:create", ADMIN, "Create a flavor.", "POST", "/flavors"),
    _rule("os-flavor-manage:update", ADMIN, "Change a flavor.", "PUT", "/flavors/{flavor_id}"),
    _rule("os-flavor-manage:delete", ADMIN, "Delete a flavor.", "DELETE", "/flavors/{flavor_id}"),
    _rule("os-flavor-extra-specs:create", ADMIN, "Add extra specs to a flavor.", "POST", _SPECS),
    _rule("os-flavor-extra-specs:update", ADMIN, "Change an extra spec.", "PUT", f"{_SPECS}/{{key}}"),
    _rule("os-flavor-extra-specs:delete", ADMIN, "Delete an extra spec.", "DELETE", f"{_SPECS}/{{key}}"),
    _rule("os-availability-zone:list", EVERYONE, "List availability zones.", "GET", "/os-availability-zone"),
    _rule("os-availability-zone:detail", ADMIN, "List zones with their hosts.", "GET", "/os-availability-zone/detail"),
    _rule("os-hypervisors:list", ADMIN, "List hosts.", "GET", "/os-hypervisors"),
    _rule("os-hypervisors:list-detail", ADMIN, "List hosts with details.", "GET", "/os-hypervisors/detail"),
    _rule("os-hypervisors:show", ADMIN, "Show a host.", "GET", "/os-hypervisors/{hypervisor_id}"),
    _rule("os-services:list", ADMIN, "List compute services.", "GET", "/os-services"),
)  # fmt: skip

_CREATE = "os_compute_api:servers:create"

RESOURCES = (
    ResourceAttributes(
        name="server",
        create=_CREATE,
        update="os_compute_api:servers:update",
        on_create=model_fields(schemas.ServerFields),
        on_update=model_fields(schemas.ServerChanges),
        rules={(_CREATE, name): REQUESTED_DESTINATION for name in ("host", "hypervisor_hostname")},
    ),
    ResourceAttributes(
        name="server (rebuild)",
        create="",
        update="os_compute_api:servers:rebuild",
        on_create=(),
        on_update=model_fields(schemas.RebuildFields),
    ),
    ResourceAttributes(
        name="server metadata",
        create="",
        update="os_compute_api:server-metadata:update",
        on_create=(),
        on_update=("metadata",),
    ),
    ResourceAttributes(
        name="server tags", create="", update="os_compute_api:os-server-tags:update", on_create=(), on_update=("tags",)
    ),
    ResourceAttributes(
        name="keypair",
        create="os_compute_api:os-keypairs:create",
        update="",
        on_create=model_fields(schemas.KeypairFields),
        on_update=(),
    ),
    ResourceAttributes(
        name="flavor",
        create="os_compute_api:os-flavor-manage:create",
        update="os_compute_api:os-flavor-manage:update",
        on_create=model_fields(schemas.FlavorFields),
        on_update=model_fields(schemas.FlavorChanges),
    ),
    ResourceAttributes(
        name="flavor extra specs",
        create="os_compute_api:os-flavor-extra-specs:create",
        update="os_compute_api:os-flavor-extra-specs:update",
        on_create=("extra_specs",),
        on_update=("extra_specs",),
    ),
)
