"""What takes guests' requests, and by which way they come, chosen while the system runs: nothing else is restarted."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from tests.pids import pid_in
from tests.system.cloud import Cloud
from tests.system.making import Maker
from tests.waiting import HANG_SECONDS, until

from openimds.config.programs import PROGRAMS

URL = "http://169.254.169.254/latest/meta-data/hostname"
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

    def hostname(self, server: str, patience_seconds: float = HANG_SECONDS) -> str:
        """What it is answered; empty where it is not answered."""
        return self.cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", f"{patience_seconds:g}", URL, check=False)

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
    maker = Maker(cloud)
    lonely, routed = (maker.network(name, "192.168.40.0/24") for name in ("lonely", "routed"))
    made = Pair(
        cloud,
        router=maker.router("r", routed),
        lonely=maker.server("lonely", lonely),
        routed=maker.server("routed", routed),
        lonely_network=lonely.id,
        routed_network=routed.id,
    )
    cloud.wait_booted(made.lonely, "lonely")
    cloud.wait_booted(made.routed, "routed")
    return made


def set_ways(cloud: Cloud, *, isolated: bool, force: bool) -> None:
    file = cloud.state_dir / "etc" / "dhcp_agent.ini"
    text = re.sub(r"(?m)^force_metadata = .*$", f"force_metadata = {force}", file.read_text())
    file.write_text(re.sub(r"(?m)^enable_isolated_metadata = .*$", f"enable_isolated_metadata = {isolated}", text))
    cloud.reread("dhcp-agent")


@pytest.mark.parametrize(("isolated", "force"), WAYS)
def test_the_ways_are_chosen_while_it_runs(pair: Pair, metadata_proxy: str, isolated: bool, force: bool) -> None:
    before = pair.others()
    set_ways(pair.cloud, isolated=isolated, force=force)
    ending = {"direct": "json", "haproxy": "conf"}[metadata_proxy]
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
    for kind, ending in (("haproxy", "conf"), ("direct", "json"), ("haproxy", "conf")):
        before = pair.others()
        cloud.choose_metadata_proxy(kind)
        expected = pair.listeners(isolated=True, force=False)
        until(lambda ending=ending, of=expected: cloud.proxy_files(ending) == of, f"{kind} everywhere")  # type: ignore[misc]
        assert pair.hostname(pair.lonely) == "lonely.novalocal"
        assert pair.hostname(pair.routed) == "routed.novalocal"
        assert pair.others() == before


def test_who_connects_while_the_agent_is_dead_waits_for_the_next(pair: Pair) -> None:
    pair.cloud.choose_metadata_proxy("direct")
    os.kill(pair.cloud.part("metadata-agent")["pid"], signal.SIGKILL)
    assert pair.hostname(pair.lonely) == "lonely.novalocal"
    assert pair.hostname(pair.routed) == "routed.novalocal"
