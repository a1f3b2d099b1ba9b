"""A network's bridge in the root namespace, and what the host must not do to the packets on it."""

from __future__ import annotations

import errno

from openimds.linux import sysctl
from openimds.linux.configure.ownership import OwnershipRecord
from openimds.linux.firewall.bridge_forward import BridgeForwardRule
from openimds.linux.firewall.notrack import BridgeNotrack
from openimds.linux.netlink.links import add_bridge, delete_link, has_ports, link_by_name, set_link
from openimds.netconfig.namespace_state import Bridge

BRIDGE_PREFIX = "brq"


class Bridges:
    """`prefix` is the option `namespace_prefix`."""

    def __init__(self, ledger: OwnershipRecord, prefix: str) -> None:
        self._ledger = ledger
        self._exemption = BridgeNotrack(prefix)
        self._forwarding = BridgeForwardRule()

    def ensure(self, bridge: Bridge) -> tuple[str, ...]:
        """The changes made, in words. Raises OSError, ProgramError."""
        done = []
        link = link_by_name(bridge.name)
        if link is None:
            self._ledger.note("link", bridge.name)
            _add_once(bridge)
            link = link_by_name(bridge.name)
            done.append(f"create bridge {bridge.name}")
        if link is None:
            raise OSError(errno.ENODEV, f"bridge {bridge.name} went away while it was made")
        if self._exemption.add(bridge.name):
            done.append(f"exempt bridge {bridge.name} from connection tracking")
        if self._forwarding.add(bridge.name):
            done.append(f"let the host's firewall pass what stays on bridge {bridge.name}")
        sysctl.disable_ipv6(bridge.name)
        if link.mtu != bridge.mtu or not link.up:
            set_link(link.index, mtu=bridge.mtu, up=True)
            done.append(f"set bridge {bridge.name} up, mtu {bridge.mtu}")
        return tuple(done)

    @property
    def is_overdue(self) -> bool:
        """The host's rules were changed since they were read last, and it was too early to read them again."""
        return self._exemption.is_overdue or self._forwarding.is_overdue

    def remove(self, name: str) -> bool:
        """Whether it is gone: one that still has ports stays. Idempotent."""
        link = link_by_name(name)
        if link is not None:
            if has_ports(link.index):
                return False
            delete_link(link.index)
        self._exemption.remove(name)
        self._forwarding.remove(name)
        self._ledger.forget("link", name)
        return True

    def names(self) -> set[str]:
        """Those of this system that exist."""
        noted = {name for name in self._ledger.names("link") if name.startswith(BRIDGE_PREFIX)}
        found = (link_by_name(name) for name in noted)
        return {link.name for link in found if link is not None and link.kind == "bridge"}


def _add_once(bridge: Bridge) -> None:
    try:
        add_bridge(bridge.name, bridge.mtu)
    except OSError as error:
        if error.errno != errno.EEXIST:  # another agent of this host was faster
            raise
