"""The policy of ports: permission to set attributes, attributes that exclude each other, and DNS names.

The policy is Neutron's default policy with one difference: the owner of a network may not set a `network:*` device owner.

The DNS server of a network resolves the DNS names of its ports for all instances on the network. On a shared network, the
instances of other projects therefore see a name that one project chooses.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, Conflict, Forbidden
from openimds.resources.network import DEVICE_OWNER_COMPUTE_PREFIX, NETWORK_OWNER_PREFIX
from openimds.store.models.compute import Server
from openimds.store.models.network import CANONICAL_DNS_NAME, Network, Port, Router
from openimds.store.network.access import network_target

BINDING = ("binding:host_id", "binding:profile")
DEVICE = ("device_id", "device_owner")


def check_create(caller: Caller, network: Network, project_id: str, attributes: Mapping[str, Any]) -> None:
    """Checks the attributes of a new port. Raises Forbidden."""
    target = network_target(network)
    _check(caller, "create_port", network, [*_binding(attributes), *_restricted(attributes)], project_id)
    if not caller.may("create_port:network_id", project_id, target):
        raise Forbidden(
            f"Network {network.id} is external and not shared: only its owner creates ports on it; use a router or a "
            "floating IP.",
            kind="PolicyNotAuthorized",
        )


def check_update(caller: Caller, network: Network, port: Port, attributes: Mapping[str, Any]) -> None:
    """Raises Forbidden, or Conflict for attributes that an attached port must keep."""
    changed = {name: value for name, value in attributes.items() if _differs(port, name, value)}
    new_mac = "mac_address" in changed  # null asks for another random address
    names = [*_binding(attributes), *_restricted(changed), *(["mac_address"] if new_mac else [])]
    _check(caller, "update_port", network, list(dict.fromkeys(names)), port.project_id)
    if new_mac and port.host:
        raise Conflict(
            f"Unable to complete operation on port {port.id}: it is bound to host {port.host}, "
            "so its mac_address must stay.",
            kind="PortBound",
        )
    if not caller.is_admin:
        _refuse_attached(port, attributes)


def check_device(session: Session, caller: Caller, project_id: str, attributes: Mapping[str, Any]) -> None:
    """Raises Conflict if `device_id` is the id of a server or router of another project. `project_id` is the port's.

    Any other text is permitted, as in Neutron. Other spellings of a UUID count as the UUID.
    """
    device_id = attributes.get("device_id")
    if not device_id or caller.is_admin:
        return
    spellings = {str(device_id), _as_uuid(str(device_id))}
    for model in (Server, Router):
        owners = set(session.scalars(sa.select(model.project_id).where(model.id.in_(spellings))))
        if owners - {project_id}:
            raise Conflict(
                f"The following device_id {device_id} is not owned by your tenant or matches another tenants router.",
                kind="DeviceIDNotOwnedByTenant",
            )


def check_consistent(port: Port) -> None:
    """Raises BadRequest or Conflict if attributes of the port contradict each other."""
    if port.port_security_enabled:
        return
    if port.security_group_ids:
        raise BadRequest(
            "security_groups",
            f"security_groups: port {port.id} has port security off and can have no security group; "
            "send an empty list.",
            kind="PortSecurityAndIPRequiredForSecurityGroups",
        )
    if port.allowed_address_pairs:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.",
            kind="AddressPairAndPortSecurityRequired",
        )


def _binding(attributes: Mapping[str, Any]) -> list[str]:
    return [name for name in BINDING if name in attributes]


def _restricted(changed: Mapping[str, Any]) -> list[str]:
    """The attributes that are set and not only cleared, with the parts of attributes that have a rule of their own."""
    device_owner = _visible(str(changed.get("device_owner") or ""))
    others = (*BINDING, "network_id", "device_owner")
    names = [name for name in changed if name not in others and (changed[name] or name == "port_security_enabled")]
    if device_owner.startswith(NETWORK_OWNER_PREFIX):
        names.append("device_owner")
    if any(entry.get("ip_address") for entry in changed.get("fixed_ips") or ()):
        names.append("fixed_ips:ip_address")
    return names


def _check(caller: Caller, action: str, network: Network, names: Sequence[str], project_id: str) -> None:
    target = {"project_id": project_id, "tenant_id": project_id, **network_target(network)}
    forbidden = caller.forbidden_attributes(action, names, target)
    if forbidden:
        raise Forbidden(
            f"{', '.join(forbidden)}: only the owner of network {network.id} or an administrator may set this: policy "
            f"doesn't allow {action}:{forbidden[0]} to be performed.",
            kind="PolicyNotAuthorized",
        )


def _refuse_attached(port: Port, attributes: Mapping[str, Any]) -> None:
    """Raises Conflict for another device of an attached port. Clients may send back the present values."""
    held = [name for name in DEVICE if name in attributes and (attributes[name] or "") != getattr(port, name)]
    if port.attached_owner.startswith(NETWORK_OWNER_PREFIX):
        held += [name for name in ("fixed_ips",) if name in attributes]
        device = f"device {port.attached_id} ({port.attached_owner})"
    elif port.attached_owner.startswith(DEVICE_OWNER_COMPUTE_PREFIX):
        device = f"server {port.attached_id}, which detaches it"
    else:
        return
    if held:
        raise Conflict(
            f"Port {port.id} is attached to {device}: {', '.join(held)} cannot be changed here.", kind="PortInUse"
        )


def _as_uuid(text: str) -> str:
    """`{7F…}`, `URN:UUID:7f…` → `7f…`. Any other text is returned unchanged."""
    try:
        return str(uuid.UUID(_visible(text)))
    except ValueError:
        return text


def _visible(text: str) -> str:
    """The text as a reader sees it: in lower case, without spaces, zero-width characters and byte order marks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isprintable() and not char.isspace())


def _differs(port: Port, name: str, value: Any) -> bool:
    """Whether the value is new. Clients send back values that they read, which needs no permission."""
    if name == "fixed_ips":
        had = {ip.ip_address for ip in port.fixed_ips}
        return any(entry.get("ip_address") not in {None, *had} for entry in value or ())
    return bool(getattr(port, name, None) != value) if hasattr(port, name) else True


RESERVED_DNS_NAMES = frozenset({"data-server", "instance-data", "isatap", "localhost", "wpad"})
"""Names that guests look up by themselves: metadata services (cloud-init asks `instance-data` for EC2 and `data-server`
for CloudStack), a tunnel, the own loopback, a web proxy.
"""

DEFAULT_DNS_NAME_PREFIX = "host-"
"""The default name of 192.168.40.5 is `host-192-168-40-5`."""


def check_dns_name(session: Session, port: Port) -> None:
    """Raises BadRequest if no port may have the port's name; Conflict if a port of another project on the network has
    it.
    """
    if _has_many_labels(port.dns_name):
        raise BadRequest(
            "dns_name",
            f"Invalid input for operation: dns_name: {port.dns_name} has more than one label.",
            kind="InvalidInput",
        )
    check_dns_name_of_address(port)
    if _is_taken(session, port, port.dns_name):
        raise Conflict(
            f"dns_name: a port of another project on network {port.network_id} has the name {port.dns_name}."
        )


def check_dns_name_of_address(port: Port) -> None:
    """Raises BadRequest if guests use the port's name for a service, or if it is the default name of another address."""
    if _means_another(port, port.dns_name):
        raise BadRequest(
            "dns_name",
            f"Invalid input for operation: dns_name: {port.dns_name} is reserved, or it is the default name of an address "
            "that the port does not have.",
            kind="InvalidInput",
        )


def is_usable_dns_name(session: Session, port: Port, name: str) -> bool:
    """Whether the port may have this name."""
    return not (_has_many_labels(name) or _means_another(port, name) or _is_taken(session, port, name))


def _has_many_labels(name: str) -> bool:
    return "." in _canonical(name)


def _means_another(port: Port, name: str) -> bool:
    name = _canonical(name)
    address = _address_in(name)
    own = {ip.ip_address for ip in port.fixed_ips}
    return name in RESERVED_DNS_NAMES or (address is not None and address not in own)


def _is_taken(session: Session, port: Port, name: str) -> bool:
    name = _canonical(name)
    if not name:
        return False
    others = sa.select(Port.id).where(Port.network_id == port.network_id, Port.project_id != port.project_id)
    holders = others.where(sa.literal_column(CANONICAL_DNS_NAME) == name)
    return session.scalar(holders.limit(1)) is not None


def _canonical(name: str) -> str:
    return name.rstrip(".").lower()


def _address_in(name: str) -> str | None:
    """`host-192-168-40-5` → `192.168.40.5`. None if the name is not the default name of an address."""
    if name.startswith(DEFAULT_DNS_NAME_PREFIX):
        spelled = name.removeprefix(DEFAULT_DNS_NAME_PREFIX)
        for separator in (".", ":"):
            with suppress(ValueError):
                return str(ip_address(spelled.replace("-", separator)))
    return None
