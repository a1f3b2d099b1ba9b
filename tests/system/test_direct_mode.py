"""What takes guests' requests, and by which way they come, chosen while the system runs: nothing else is restarted."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from tests.pids import pid_in
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.system.option_files import set_option
from tests.waiting import HANG_SECONDS, until

from openimds.config.programs import PROGRAMS

URL = "http://169.254.169.254/latest/meta-data/hostname"
ENDINGS = {"direct": "json", "haproxy": "conf"}
"""Of the files of either kind."""
WAYS = list(product((True, False), repeat=2))
"""enable_isolated_metadata, force_metadata."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two guests with the same addresses: one on a network without a router, one on a network with one."""

    cloud: Cloud
    lonely: str
    routed: str
    lonely_network: str
    routed_network: str
    router: str

    def listeners(self, *, isolated: bool, force: bool) -> list[str]:
        """Whose namespaces have one."""
        by_network = [self.lonely_network] * (isolated or force) + [self.routed_network] * force
        return sorted([self.router, *by_network])

    def hostname(self, server: str, timeout_seconds: float = HANG_SECONDS) -> str:
        """What it is answered; empty where it is not answered."""
        return self.cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", f"{timeout_seconds:g}", URL, check=False)

    def others(self) -> dict[str, int]:
        """What goes on as it is: our programs, and each network's dnsmasq."""
        ours = {name: self.cloud.part(name)["pid"] for name in PROGRAMS}
        return ours | {
            str(file): until(partial(pid_in, file), f"{file} is written")
            for file in Path(self.cloud.state_dir).glob("dhcp/*/pid")
        }


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Pair:
    set_ways(cloud, isolated=True, force=False)
    api = ApiClient(cloud)
    lonely, routed = (api.network(name, "192.168.40.0/24") for name in ("lonely", "routed"))
    made = Pair(
        cloud,
        router=api.router("r", routed),
        lonely=api.server("lonely", lonely),
        routed=api.server("routed", routed),
        lonely_network=lonely.id,
        routed_network=routed.id,
    )
    cloud.wait_booted(made.lonely, "lonely")
    cloud.wait_booted(made.routed, "routed")
    return made


def set_ways(cloud: Cloud, *, isolated: bool, force: bool) -> None:
    file = cloud.state_dir / "etc" / "dhcp_agent.ini"
    set_option(file, "force_metadata", str(force))
    set_option(file, "enable_isolated_metadata", str(isolated))
    cloud.reload("dhcp-agent")


@pytest.mark.parametrize(("isolated", "force"), WAYS)
def test_the_ways_are_chosen_while_it_runs(pair: Pair, metadata_proxy: str, isolated: bool, force: bool) -> None:
    before = pair.others()
    set_ways(pair.cloud, isolated=isolated, force=force)
    ending = ENDINGS[metadata_proxy]
    expected = pair.listeners(isolated=isolated, force=force)
    until(lambda: pair.cloud.proxy_files(ending) == expected, f"listeners for {expected}")
    is_served = isolated or force
    name = "lonely.novalocal" * is_served
    until(lambda: pair.hostname(pair.lonely, 9) == name, f"served without a router: {is_served}")
    assert pair.hostname(pair.routed) == "routed.novalocal"
    assert pair.others() == before


def test_from_one_kind_to_the_other_and_back(pair: Pair) -> None:
    """After those that ask for a kind: it leaves another one."""
    cloud = pair.cloud
    set_ways(cloud, isolated=True, force=False)
    until(lambda: pair.hostname(pair.lonely, 9) == "lonely.novalocal", "served without a router")
    for kind in ("haproxy", "direct", "haproxy"):
        before = pair.others()
        cloud.choose_metadata_proxy(kind)
        expected = pair.listeners(isolated=True, force=False)
        until(lambda ending=ENDINGS[kind], of=expected: cloud.proxy_files(ending) == of, f"{kind} everywhere")  # type: ignore[misc]
        assert pair.hostname(pair.lonely) == "lonely.novalocal"
        assert pair.hostname(pair.routed) == "routed.novalocal"
        assert pair.others() == before


def test_who_connects_while_the_agent_is_dead_waits_for_the_next(pair: Pair) -> None:
    pair.cloud.choose_metadata_proxy("direct")
    os.kill(pair.cloud.part("metadata-agent")["pid"], signal.SIGKILL)
    assert pair.hostname(pair.lonely) == "lonely.novalocal"
    assert pair.hostname(pair.routed) == "routed.novalocal"


@pytest.mark.parametrize(("of_networks", "of_routers"), [("haproxy", "direct"), ("direct", "haproxy")])
def test_one_kind_in_networks_namespaces_and_the_other_in_routers(
    pair: Pair, of_networks: str, of_routers: str
) -> None:
    """The last ones: what they write into the agents' own files outweighs what the others write for both."""
    cloud = pair.cloud
    set_ways(cloud, isolated=True, force=False)
    etc = cloud.state_dir / "etc"
    set_option(etc / "dhcp_agent.ini", "metadata_proxy", of_networks)
    set_option(etc / "l3_agent.ini", "metadata_proxy", of_routers)
    cloud.reload("dhcp-agent", "l3-agent")
    expected = {of_networks: [pair.lonely_network], of_routers: [pair.router]}
    until(
        lambda: {kind: cloud.proxy_files(ending) for kind, ending in ENDINGS.items()} == expected,
        f"{of_networks} for networks, {of_routers} for routers",
    )
    until(lambda: pair.hostname(pair.lonely, 9) == "lonely.novalocal", "served without a router")
    assert pair.hostname(pair.routed) == "routed.novalocal"
    program = {"direct": "openimds", "haproxy": "haproxy"}
    for kind, namespace, port in (
        (of_networks, f"qdhcp-{pair.lonely_network}", 80),
        (of_routers, f"qrouter-{pair.router}", 9697),
    ):
        users = cloud.inside(namespace, "ss", "-Hlntp", f"sport = :{port}")
        assert [name for name in program.values() if name in users] == [program[kind]]
