"""Servers, keypairs, flavors and hosts; and what the compute agents report of servers."""

from __future__ import annotations

from openimds.store.compute.agent_reports import put_console, report_server, server_wire
from openimds.store.compute.flavors import Flavors
from openimds.store.compute.keypairs import Keypairs
from openimds.store.compute.power_actions import Power
from openimds.store.compute.scheduling import Hosts
from openimds.store.compute.servers import Servers
from openimds.store.engine import Store


class ComputeStore:
    """The compute service's part of the store, one attribute a noun."""

    def __init__(self, store: Store, agent_down_seconds: float = 20) -> None:
        """`agent_down_seconds`: how old an agent's heartbeat may be for its host to be given servers."""
        self.servers = Servers(store, agent_down_seconds)
        self.power = Power(store)
        self.flavors = Flavors(store)
        self.keypairs = Keypairs(store)
        self.hosts = Hosts(store, agent_down_seconds)


__all__ = [
    "ComputeStore",
    "Flavors",
    "Hosts",
    "Keypairs",
    "Power",
    "Servers",
    "put_console",
    "report_server",
    "server_wire",
]
