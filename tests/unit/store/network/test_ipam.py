"""The search for the lowest free address."""

from __future__ import annotations

import random
from typing import Any

import pytest

from openimds.resources.errors import Conflict


def last_octets(port: dict[str, Any]) -> list[int]:
    return [int(ip["ip_address"].rsplit(".", 1)[1]) for ip in port["fixed_ips"]]


@pytest.mark.parametrize("seed", range(6))
def test_bisection_finds_the_lowest_free_address(cloud: Any, seed: int) -> None:
    dice = random.Random(seed)
    pools = [{"start": "10.0.0.4", "end": "10.0.0.9"}, {"start": "10.0.0.20", "end": "10.0.0.27"}]
    network, _ = cloud.net("10.0.0.0/24", allocation_pools=pools)
    in_pools = [*range(4, 10), *range(20, 28)]
    ports: dict[int, str] = {}
    for _ in range(40):
        free = [number for number in in_pools if number not in ports]
        if ports and dice.random() < 0.4:
            gone = dice.choice(sorted(ports))
            cloud.remove("port", ports.pop(gone))
        elif dice.random() < 0.2:
            chosen = dice.choice([number for number in range(2, 40) if number not in ports])
            port = cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": f"10.0.0.{chosen}"}])
            ports[chosen] = port["id"]
        elif free:
            port = cloud.make("port", network_id=network["id"])
            assert last_octets(port) == [free[0]]
            ports[free[0]] = port["id"]
        else:
            with pytest.raises(Conflict, match="exhausted"):
                cloud.make("port", network_id=network["id"])


def test_port_gets_several_addresses_of_one_subnet(cloud: Any) -> None:
    network, subnet = cloud.net("10.0.0.0/29")
    wanted = [{"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.3"}, {"subnet_id": subnet["id"]}]
    port = cloud.make("port", network_id=network["id"], fixed_ips=wanted)
    assert last_octets(port) == [2, 3, 4]
    # The port's own addresses are not counted twice and not allocated again.
    more = [*port["fixed_ips"], {"subnet_id": subnet["id"]}, {"subnet_id": subnet["id"]}]
    port = cloud.change("port", port["id"], fixed_ips=more)
    assert last_octets(port) == [2, 3, 4, 5, 6]
    with pytest.raises(Conflict, match="exhausted"):
        cloud.change("port", port["id"], fixed_ips=[*port["fixed_ips"], {"subnet_id": subnet["id"]}])
    assert last_octets(cloud.show("port", port["id"])) == [2, 3, 4, 5, 6]
