"""The L3 agent: `qrouter-` namespaces, NAT, and metadata through the router."""

from __future__ import annotations

from openimds.agents.l3.router_handler import L3Adapters, L3Settings, RouterHandler

__all__ = ["L3Adapters", "L3Settings", "RouterHandler"]
