"""The 1,000 networks of a host, with the namespace, the devices and the files of each."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from openimds.client.testing import FakeControl
from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig.dhcp_network import dhcp_device_id
from openimds.resources.network import dhcp_namespace

NETWORKS = int(os.environ.get("BENCH_NETWORKS", "1000"))
"""A smaller number is for trials of the benchmark."""
PORTS_PER_NETWORK = 5
"""The DHCP port and the ports of four instances."""
STATE = Path("/tmp/openimds-bench-host")
"""A constant, so that the next run finds the leftovers of a run that was killed."""
PREFIX = "bh-"


def network_id(number: int) -> str:
    return f"bec{number:05x}-00aa-4000-8000-00000000000a"


def put_network(control: FakeControl, number: int) -> None:
    """Adds a network with its ports, an IPv4 and an IPv6 subnet, and so with a metadata listener of each family."""
    network, subnet = network_id(number), f"bec{number:05x}-00bb-4000-8000-00000000000b"
    control.put("network", {"id": network, "name": "n", "project_id": "p", "mtu": 1442})
    control.put(
        "subnet",
        {
            "id": subnet,
            "network_id": network,
            "project_id": "p",
            "cidr": "192.168.40.0/24",
            "gateway_ip": "192.168.40.1",
            "ip_version": 4,
            "enable_dhcp": True,
        },
    )
    control.put(
        "subnet",
        {
            "id": f"bec{number:05x}-00bb-4000-8000-00000000006b",
            "network_id": network,
            "project_id": "p",
            "cidr": "fd00:40::/64",
            "ip_version": 6,
            "enable_dhcp": False,
        },
    )
    for port in range(PORTS_PER_NETWORK):
        control.put("port", _port(number, port, subnet))


def _port(number: int, port: int, subnet: str) -> dict[str, object]:
    owner = (
        ("network:dhcp", dhcp_device_id("bench", network_id(number))) if port == 0 else ("compute:nova", f"vm{port}")
    )
    return {
        "id": f"{port:01x}be{number:05x}-00cc-4000-8000-00000000000c",
        "network_id": network_id(number),
        "project_id": "p",
        "mac_address": f"fa:16:3e:{port:02x}:{number >> 8:02x}:{number & 255:02x}",
        "fixed_ips": [{"subnet_id": subnet, "ip_address": f"192.168.40.{port + 2}"}],
        "device_id": owner[1],
        "device_owner": owner[0],
        "binding:host_id": "bench",
        "status": "ACTIVE",
        "admin_state_up": True,
        "port_security_enabled": True,
    }


@dataclass(frozen=True)
class Place:
    """One of the networks."""

    number: int

    @property
    def namespace(self) -> str:
        return dhcp_namespace(network_id(self.number), PREFIX)

    @property
    def device(self) -> str:
        return f"tap0be{self.number:05x}-00"

    @property
    def bridge(self) -> str:
        return f"brq{network_id(self.number)[:11]}"

    @property
    def folder(self) -> Path:
        return STATE / "dhcp" / network_id(self.number)

    def pid(self) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.folder / "pid").read_text())
            return pid if is_alive(pid) and by_namespace.process_is_in(pid, self.namespace) else 0
        return 0

    def ip(self, words: str) -> str:
        return run(["ip", "-n", self.namespace, *words.split()])
