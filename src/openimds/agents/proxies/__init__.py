"""What takes the guests' metadata requests in a namespace, kept by the DHCP and the L3 agent alike."""

from __future__ import annotations

from openimds.agents.proxies.either import MetadataProxies
from openimds.agents.proxies.inside import Namespaces
from openimds.agents.proxies.keeper import Programs

__all__ = ["MetadataProxies", "Namespaces", "Programs"]
