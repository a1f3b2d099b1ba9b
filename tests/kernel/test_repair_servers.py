"""Changes to a guest's port and its rules are repaired while the guest runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.kernel import test_compute_agent
from tests.kernel.stage import Host
from tests.waiting import until

from openimds.client.testing import FakeControl
from openimds.linux.firewall.iptables import nft_list
from openimds.linux.firewall.notrack import table_name
from openimds.linux.process.daemons import run
from openimds.linux.process.identity import is_alive

pytestmark = pytest.mark.kernel


@pytest.fixture
def server(host: Host) -> Iterator[test_compute_agent.Cloud]:
    with FakeControl() as control:
        cloud = test_compute_agent.Cloud(host, control)
        cloud.resync_interval = 3600
        try:
            cloud.start_agent()
            until(lambda: cloud.reported(1, "running"))
            until(lambda: cloud.heartbeat().get("full_rounds"))
            yield cloud
        finally:
            cloud.stop_agent()


PORT_CHANGES = {
    "tap unplugged": "ip link set TAP nomaster",
    "tap down": "ip link set TAP down",
    "tap deleted": "ip link delete TAP",
    "bridge deleted": "ip link delete BR",
    "chain flushed": "nft flush chain bridge TABLE TAP",
    "table deleted": "nft delete table bridge TABLE",
    "exemption flushed": "nft flush table inet TABLE",
    "exemption deleted": "nft delete table inet TABLE",
    "exemption of the bridge": "nft delete element inet TABLE bridges { BR }",
    "exemption overruled": "nft insert rule inet TABLE untracked accept",
    "port let go": "nft delete element bridge TABLE instances { TAP }",
    "ports let go": "nft flush map bridge TABLE instances",
    "table let go": "nft insert rule bridge TABLE prerouting accept",
    "table not asked": "nft flush chain bridge TABLE prerouting",
    "nobody may send": "nft chain bridge TABLE prerouting { policy drop ; }",
    "a foreign rule of a port": "nft insert rule bridge TABLE TAP accept",
}


@pytest.mark.parametrize("change", PORT_CHANGES.values(), ids=PORT_CHANGES)
def test_port_of_a_server_is_repaired_while_the_guest_runs(server: test_compute_agent.Cloud, change: str) -> None:
    tap, table = f"tap{server.port_id[:11]}", table_name(server.host.prefix)
    names = {"TAP": tap, "BR": server.bridge, "TABLE": table}
    record, before = server.boot_record(), _port_state(server, tap, table)
    assert all(before)
    run([names.get(word, word) for word in change.split()])
    until(lambda: _port_state(server, tap, table) == before)
    assert server.boot_record() == record
    assert is_alive(int(record.split()[0]))


def _port_state(server: test_compute_agent.Cloud, tap: str, table: str) -> tuple[object, ...]:
    links = server.host.kernel.links()
    plugged = tap in links and server.bridge in links and links[tap].master_index == links[server.bridge].index
    rules = [_without_handles(nft_list(family, table) or "") for family in ("bridge", "inet")]
    return (plugged, plugged and links[tap].up and links[server.bridge].up, *rules)


def _without_handles(listing: str) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", listing)
