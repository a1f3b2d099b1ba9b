"""The ports of two guests on the loopback, and router interfaces, for tests of the direct mode."""

from __future__ import annotations

from tests.unit.agents.metadata.direct_cloud import MAC_A, MAC_B, A, B, port

from openimds.resources.network import FixedIP, Port

NAME = "/latest/meta-data/hostname"
A_AT_1 = port(A, MAC_A, "127.0.0.1")
B_AT_2 = port(B, MAC_B, "127.0.0.2")


def leg(network: str, router: str = "r1") -> Port:
    return Port(
        id=f"leg-{network}",
        network_id=network,
        project_id="p1",
        mac_address="fa:16:3e:ff:ff:01",
        fixed_ips=(FixedIP(f"s-{network}", "192.0.2.1"),),
        device_id=router,
        device_owner="network:router_interface",
    )
