"""The DHCP agent: `qdhcp-` namespaces, dnsmasq, and metadata on isolated networks."""

from __future__ import annotations

from openimds.agents.dhcp.network_handler import DhcpNetworks, DhcpSettings, Edges

__all__ = ["DhcpNetworks", "DhcpSettings", "Edges"]
