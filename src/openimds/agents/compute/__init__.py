"""The compute agent: plugs instances' ports, keeps port security, and runs instances by a driver.

`servers.py` is the trade (what a server's wires should be); `power.py` starts and stops; `consoles.py` sends what the
guests print; `edges.py` says what all of it needs of the rest of the world.
"""

from __future__ import annotations

from openimds.agents.compute.consoles import Consoles
from openimds.agents.compute.edges import Edges
from openimds.agents.compute.power import Power
from openimds.agents.compute.servers import ComputeSettings, Servers

__all__ = ["ComputeSettings", "Consoles", "Edges", "Power", "Servers"]
