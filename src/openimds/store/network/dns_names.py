"""The DNS names of ports: which of them a port may have.

A network's DHCP agents resolve the names of its ports for every guest on it, so on a shared network a name that one
project chooses is an answer to the guests of others.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest, Conflict
from openimds.store.models.network import Port

RESERVED = frozenset({"data-server", "instance-data", "isatap", "localhost", "wpad"})
"""Names that guests look up by themselves: metadata services (cloud-init asks `instance-data` for EC2 and `data-server`
for CloudStack), a tunnel, the own loopback, a web proxy.
"""

DEFAULT_PREFIX = "host-"
"""The default name of 192.168.40.5 is `host-192-168-40-5`."""


def check(session: Session, port: Port) -> None:
    """Raises BadRequest if no port may have the port's name; Conflict if a port of another project on the network has
    it.
    """
    if _has_many_labels(port.dns_name):
        raise BadRequest(
            "dns_name",
            f"Invalid input for operation: dns_name: {port.dns_name} has more than one label.",
            kind="InvalidInput",
        )
    check_meaning(port)
    if _is_taken(session, port, port.dns_name):
        raise Conflict(
            f"dns_name: a port of another project on network {port.network_id} has the name {port.dns_name}."
        )


def check_meaning(port: Port) -> None:
    """Raises BadRequest if guests take the port's name for something else than this port."""
    if _means_another(port, port.dns_name):
        raise BadRequest(
            "dns_name",
            f"Invalid input for operation: dns_name: {port.dns_name} is reserved, or the default name of an address that "
            "the port does not have.",
            kind="InvalidInput",
        )


def is_usable(session: Session, port: Port, name: str) -> bool:
    """Whether the port may have this name."""
    return not (_has_many_labels(name) or _means_another(port, name) or _is_taken(session, port, name))


def _has_many_labels(name: str) -> bool:
    return "." in _canonical(name)


def _means_another(port: Port, name: str) -> bool:
    name = _canonical(name)
    address = _address_in(name)
    own = {ip.ip_address for ip in port.fixed_ips}
    return name in RESERVED or (address is not None and address not in own)


def _is_taken(session: Session, port: Port, name: str) -> bool:
    name = _canonical(name)
    if not name:
        return False
    others = sa.select(Port.id).where(Port.network_id == port.network_id, Port.project_id != port.project_id)
    holders = others.where(sa.func.rtrim(sa.func.lower(Port.dns_name), ".") == name)
    return session.scalar(holders.limit(1)) is not None


def _canonical(name: str) -> str:
    return name.rstrip(".").lower()


def _address_in(name: str) -> str | None:
    """`host-192-168-40-5` → `192.168.40.5`; None for a name that is no address's default name."""
    if name.startswith(DEFAULT_PREFIX):
        spelled = name.removeprefix(DEFAULT_PREFIX)
        for separator in (".", ":"):
            with suppress(ValueError):
                return str(ip_address(spelled.replace("-", separator)))
    return None
