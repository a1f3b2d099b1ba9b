"""The compute agent: plugs instances' ports, keeps port security, and runs instances by a driver.

`servers.py` is the trade (what a server's wires should be); `power.py` starts and stops; `consoles.py` sends what the
guests print; `edges.py` says what all of it needs of the rest of the world.
"""

from __future__ import annotations

from openimds.agents.compute.console_log import ConsoleUploader
from openimds.agents.compute.power_manager import PowerManager
from openimds.agents.compute.protocols import Adapters
from openimds.agents.compute.server_handler import ComputeSettings, ServerHandler

__all__ = ["Adapters", "ComputeSettings", "ConsoleUploader", "PowerManager", "ServerHandler"]
