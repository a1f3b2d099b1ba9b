"""The DHCP agent: `qdhcp-` namespaces, dnsmasq, and metadata on isolated networks."""

from __future__ import annotations

from openimds.agents.dhcp.network_handler import DhcpAdapters, DhcpNetworkHandler, DhcpSettings

__all__ = ["DhcpAdapters", "DhcpNetworkHandler", "DhcpSettings"]
