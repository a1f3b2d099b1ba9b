"""The L3 agent: `qrouter-` namespaces, NAT, and metadata through the router."""

from __future__ import annotations

from openimds.agents.l3.router_handler import Edges, L3Settings, Routers

__all__ = ["Edges", "L3Settings", "Routers"]
