"""Who may set what on a port, and which settings do not go together (Neutron's default policy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict, Forbidden
from openimds.store.models.networks import Network
from openimds.store.models.ports import Port
from openimds.store.network.finding import require_admin

OPERATORS_ONLY = ("binding:host_id", "binding:profile")
NETWORK_OWNERS_ONLY = ("mac_address", "port_security_enabled", "allowed_address_pairs")


def check_create(caller: Caller, network: Network, attributes: Mapping[str, Any]) -> None:
    """Raises Forbidden."""
    require_admin(caller, dict(attributes), *OPERATORS_ONLY)
    if caller.owns(network.project_id):
        return
    if not network.shared:
        raise Forbidden(
            f"Network {network.id} is external and not shared: it is reached through a router or a floating IP, "
            "ports on it are made by its owner.",
            kind="PolicyNotAuthorized",
        )
    _refuse_owners_attributes(network, attributes)


def check_update(caller: Caller, network: Network, port: Port, attributes: Mapping[str, Any]) -> None:
    """Raises Forbidden, or Conflict for what a port that a router holds must keep."""
    require_admin(caller, dict(attributes), *OPERATORS_ONLY)
    if not caller.owns(network.project_id):
        changed = {name: value for name, value in attributes.items() if _differs(port, name, value)}
        _refuse_owners_attributes(network, changed)
    if "mac_address" in attributes and attributes["mac_address"] != port.mac_address:
        require_admin(caller, dict(attributes), "mac_address")
        if port.host:
            raise Conflict(
                f"Unable to complete operation on port {port.id}: it is bound to host {port.host}, "
                "so its mac_address must stay.",
                kind="PortBound",
            )
    if port.device_owner in ("network:router_interface", "network:router_gateway") and not caller.is_admin:
        fixed = [name for name in ("device_id", "device_owner", "fixed_ips") if name in attributes]
        if fixed:
            raise Conflict(
                f"Port {port.id} belongs to router {port.device_id}: {', '.join(fixed)} change through the router.",
                kind="PortInUse",
            )


def check_consistent(port: Port) -> None:
    """Raises BadRequest or Conflict when the port's settings contradict each other."""
    if port.port_security_enabled:
        return
    if port.security_group_ids:
        raise BadRequest(
            "security_groups",
            f"security_groups: port {port.id} has port security off, so it can have no security group; "
            "give an empty list.",
            kind="PortSecurityAndIPRequiredForSecurityGroups",
        )
    if port.allowed_address_pairs:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.",
            kind="AddressPairAndPortSecurityRequired",
        )


def _refuse_owners_attributes(network: Network, attributes: Mapping[str, Any]) -> None:
    used = [name for name in NETWORK_OWNERS_ONLY if attributes.get(name)]
    if "port_security_enabled" in attributes:
        used = list(dict.fromkeys([*used, "port_security_enabled"]))
    if str(attributes.get("device_owner") or "").startswith("network:"):
        used.append("device_owner")
    if any(entry.get("ip_address") for entry in attributes.get("fixed_ips") or ()):
        used.append("fixed_ips:ip_address")
    if used:
        raise Forbidden(
            f"{', '.join(used)}: only the owner of network {network.id} or an administrator may set this.",
            kind="PolicyNotAuthorized",
        )


def _differs(port: Port, name: str, value: Any) -> bool:
    """Clients send back what they read: an attribute that stays the same needs no right."""
    if name == "fixed_ips":
        had = {ip.ip_address for ip in port.fixed_ips}
        return any(entry.get("ip_address") not in {None, *had} for entry in value or ())
    return bool(getattr(port, name, None) != value) if hasattr(port, name) else True
