"""The mode of the metadata path and the namespaces that serve it, changed while the system runs.

A change restarts no other program.
"""

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
"""The file name endings of the listeners of each mode."""
ISOLATED_AND_FORCE = list(product((True, False), repeat=2))
"""The values of enable_isolated_metadata and force_metadata."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two guests with the same address: one on a network without a router, the other on a network with a router."""

    cloud: Cloud
    lonely: str
    routed: str
    lonely_network: str
    routed_network: str
    router: str

    def listeners(self, *, isolated: bool, force: bool) -> list[str]:
        """The ids of the networks and routers with a listener."""
        by_network = [self.lonely_network] * (isolated or force) + [self.routed_network] * force
        return sorted([self.router, *by_network])

    def hostname(self, server: str, timeout_seconds: float = HANG_SECONDS) -> str:
        """The hostname document that the server reads. Empty if it receives no response."""
        return self.cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", f"{timeout_seconds:g}", URL, check=False)

    def others(self) -> dict[str, int]:
        """The PIDs that a change of the mode must keep: our programs and each network's dnsmasq."""
        ours = {name: self.cloud.part(name)["pid"] for name in PROGRAMS}
        return ours | {
            str(file): until(partial(pid_in, file), f"{file} is written")
            for file in Path(self.cloud.state_dir).glob("dhcp/*/pid")
        }


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Pair:
    set_options(cloud, isolated=True, force=False)
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


def set_options(cloud: Cloud, *, isolated: bool, force: bool) -> None:
    file = cloud.state_dir / "etc" / "dhcp_agent.ini"
    set_option(file, "force_metadata", str(force))
    set_option(file, "enable_isolated_metadata", str(isolated))
    cloud.reload("dhcp-agent")


@pytest.mark.parametrize(("isolated", "force"), ISOLATED_AND_FORCE)
def test_reload_of_the_dhcp_agent_adds_and_removes_listeners(
    pair: Pair, metadata_proxy: str, isolated: bool, force: bool
) -> None:
    before = pair.others()
    set_options(pair.cloud, isolated=isolated, force=force)
    ending = ENDINGS[metadata_proxy]
    expected = pair.listeners(isolated=isolated, force=force)
    until(lambda: pair.cloud.proxy_files(ending) == expected, f"listeners for {expected}")
    is_served = isolated or force
    name = "lonely.novalocal" * is_served
    until(lambda: pair.hostname(pair.lonely, 9) == name, f"served without a router: {is_served}")
    assert pair.hostname(pair.routed) == "routed.novalocal"
    assert pair.others() == before


def test_reload_changes_the_mode_and_back(pair: Pair) -> None:
    """Comes after the tests with the fixture `metadata_proxy`, because it leaves another mode."""
    cloud = pair.cloud
    set_options(cloud, isolated=True, force=False)
    until(lambda: pair.hostname(pair.lonely, 9) == "lonely.novalocal", "served without a router")
    for kind in ("haproxy", "direct", "haproxy"):
        before = pair.others()
        cloud.choose_metadata_proxy(kind)
        expected = pair.listeners(isolated=True, force=False)
        until(lambda ending=ENDINGS[kind], of=expected: cloud.proxy_files(ending) == of, f"{kind} everywhere")  # type: ignore[misc]
        assert pair.hostname(pair.lonely) == "lonely.novalocal"
        assert pair.hostname(pair.routed) == "routed.novalocal"
        assert pair.others() == before


def test_connection_while_the_agent_is_dead_is_served_by_the_next_process(pair: Pair) -> None:
    pair.cloud.choose_metadata_proxy("direct")
    os.kill(pair.cloud.part("metadata-agent")["pid"], signal.SIGKILL)
    assert pair.hostname(pair.lonely) == "lonely.novalocal"
    assert pair.hostname(pair.routed) == "routed.novalocal"


@pytest.mark.parametrize(("of_networks", "of_routers"), [("haproxy", "direct"), ("direct", "haproxy")])
def test_network_and_router_namespaces_may_have_different_modes(pair: Pair, of_networks: str, of_routers: str) -> None:
    """Comes last, because the options in the agents' own files override those that the other tests set."""
    cloud = pair.cloud
    set_options(cloud, isolated=True, force=False)
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
