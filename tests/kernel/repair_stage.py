"""One namespace of an agent, changes to it by another program, and a check that they are repaired.

The interval of full passes is an hour, so only an event can have caused the repair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.kernel.test_network_agents import Cloud
from tests.pids import pid_in
from tests.waiting import until

from openimds.linux.process import by_namespace
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive
from openimds.netconfig import dhcp_network, router_namespace
from openimds.netconfig.namespace_state import NamespaceState, Rules

AN_HOUR = "resync_interval = 3600\n"
SUBNET_V6 = {
    "id": "s6",
    "project_id": "p",
    "cidr": "fd00:40::/64",
    "gateway_ip": "fd00:40::1",
    "ip_version": 6,
    "enable_dhcp": False,
    "ipv6_ra_mode": "slaac",
    "ipv6_address_mode": "slaac",
}


@dataclass
class Wired:
    """One namespace in its desired state, and a check that it is in that state again."""

    cloud: Cloud
    namespace: str
    device: str
    bridge: str
    files: tuple[Path, ...]
    pid_files: dict[str, Path]

    def state(self) -> NamespaceState | None:
        like = NamespaceState(
            name=self.namespace,
            sysctls=dhcp_network.SYSCTLS | router_namespace.SYSCTLS,
            ipv4_rules=Rules({"filter": ()}),
            ipv6_rules=Rules({"filter": ()}),
        )
        found = self.cloud.host.kernel.actual(self.namespace, like)
        # The kernel lists devices in the order of their creation.
        return found and replace(found, devices=tuple(sorted(found.devices, key=lambda device: device.name)))

    def texts(self) -> list[str]:
        return [path.read_text() if path.exists() else "" for path in self.files]

    def pids(self) -> dict[str, int]:
        found = {name: pid_in(path) for name, path in self.pid_files.items()}
        return {name: pid if pid and is_alive(pid) and self._is_inside(pid) else 0 for name, pid in found.items()}

    def _is_inside(self, pid: int) -> bool:
        return by_namespace.process_is_in(pid, self.namespace)

    def do(self, command: str) -> None:
        """Runs a command. `NS` is the namespace, `DEV` the device (same name inside and on the host), `BR` the bridge."""
        names = {"NS": self.namespace, "DEV": self.device, "BR": self.bridge}
        run([re.sub(r"\b(NS|DEV|BR)\b", lambda found: names[found[0]], word) for word in command.split()])

    def is_repaired(self, change: Callable[[], object], *, restarts: bool = False) -> None:
        """Makes a change and waits until everything is as before, including the processes unless `restarts` is true."""
        state, texts, pids = self.state(), self.texts(), self.pids()
        assert state
        assert all(pids.values())
        change()
        until(lambda: (self.state(), self.texts()) == (state, texts) and all(self.pids().values()))
        assert restarts or self.pids() == pids


def other_settings(desired: Mapping[str, str]) -> Iterator[str]:
    for key, value in desired.items():
        yield f"ip netns exec NS sysctl -q -w {key}={0 if value != '0' else 1}"


@pytest.fixture
def network(cloud: Cloud) -> Wired:
    folder = cloud.state / "dhcp" / cloud.network_id
    pids = cloud.state / "external" / "pids"
    proxy = cloud.state / "ns-metadata-proxy" / f"{cloud.network_id}.conf"
    cloud.dhcp.start(AN_HOUR + "force_metadata = True\nmetadata_proxy = haproxy")
    wired = Wired(
        cloud,
        cloud.qdhcp,
        f"tap{cloud.host.tag}01-00",
        f"brq{cloud.network_id[:11]}",
        (folder / "host", folder / "opts", proxy),
        {"dnsmasq": folder / "pid", "haproxy": pids / f"{cloud.network_id}.pid.haproxy"},
    )
    until(lambda: cloud.provisioned(5) == ["dhcp"])
    return wired


@pytest.fixture
def router(cloud: Cloud) -> Wired:
    cloud.control.put("subnet", SUBNET_V6 | {"network_id": cloud.network_id})
    cloud.put_router()
    v6_port = f"{cloud.host.tag}04-0000-4000-8000-00000000000b"
    cloud.control.put(
        "port",
        {
            "id": v6_port,
            "network_id": cloud.network_id,
            "project_id": "p",
            "mac_address": "fa:16:3e:00:00:04",
            "fixed_ips": [{"subnet_id": "s6", "ip_address": "fd00:40::1"}],
            "device_id": cloud.router_id,
            "device_owner": "network:router_interface",
            "binding:host_id": "node1",
            "status": "DOWN",
            "admin_state_up": True,
            "port_security_enabled": True,
        },
    )
    cloud.l3.start(AN_HOUR + "metadata_proxy = haproxy")
    pids = cloud.state / "external" / "pids"
    wired = Wired(
        cloud,
        cloud.qrouter,
        f"qr-{cloud.host.tag}03-00",
        f"brq{cloud.network_id[:11]}",
        (cloud.state / "ra" / f"{cloud.router_id}.radvd.conf",),
        {"haproxy": pids / f"{cloud.router_id}.pid.haproxy", "radvd": pids / f"{cloud.router_id}.pid.radvd"},
    )
    until(lambda: cloud.provisioned(3) == ["l2"] and cloud.provisioned(4) == ["l2"])
    return wired
