"""One HAProxy a namespace, kept by the DHCP and the L3 agent alike."""

from __future__ import annotations

from openimds.agents.proxies.keeper import Programs, ProxyKeeper

__all__ = ["Programs", "ProxyKeeper"]
