"""What takes the guests' metadata requests in a namespace, kept by the DHCP and the L3 agent alike."""

from __future__ import annotations

from openimds.agents.metadata_proxy.driver import MetadataProxyDriver
from openimds.agents.metadata_proxy.protocols import Namespaces

__all__ = ["MetadataProxyDriver", "Namespaces"]
