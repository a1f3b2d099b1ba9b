"""The operations of the compute service.

- `servers`: list, create, change, delete; `server_create`: what a boot request needs; `server_records`: rows as values;
- `power_actions`: reboot, stop, start, rebuild; `agent_reports`: the reports of compute agents about boots;
- `interfaces`: NICs; `scheduling`: hosts; `flavors`; `keypairs`.
"""

from __future__ import annotations

from openimds.store.compute.agent_reports import put_console, report_server, server_json
from openimds.store.compute.flavors import Flavors
from openimds.store.compute.keypairs import Keypairs
from openimds.store.compute.power_actions import Power
from openimds.store.compute.scheduling import Hosts
from openimds.store.compute.servers import Servers
from openimds.store.engine import Store


class ComputeStore:
    """The store of the compute API, with one attribute for each kind of resource."""

    def __init__(self, store: Store, agent_down_seconds: float = 20) -> None:
        """`agent_down_seconds`: the maximum age of an agent's heartbeat for its host to get servers."""
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
    "server_json",
]
