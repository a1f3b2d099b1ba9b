"""One router with the networks of two projects: the ports of one project do not affect the guests of the other.

The other project's ports have the guest's MAC, the guest's address on a subnet without the router, and allowed address pairs
with all addresses.
"""

from __future__ import annotations

import base64
import re
import urllib.request
from dataclasses import dataclass

import pytest
from tests.ports import free_ports
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud
from tests.waiting import until

pytestmark = [pytest.mark.usefixtures("metadata_proxy"), pytest.mark.timeout(300)]

V4 = "http://169.254.169.254/latest/user-data"
V6 = "http://[fe80::a9fe:a9fe%25eth0]/latest/user-data"
CANARY = "#!/bin/sh\necho canary of the victim\n"
PREFIX = "fd00:8::/64"


@dataclass(frozen=True, slots=True)
class Stage:
    cloud: Cloud
    api: ApiClient
    metrics_port: int
    victim: str
    port: dict[str, object]
    theirs: Network

    def ask(self, url: str) -> str:
        name = f"qvm-{self.victim}"
        return self.cloud.inside(name, "curl", "-s", "-g", "--max-time", "30", "-w", " %{http_code}", url, check=False)

    def claim(self, **port: object) -> str:
        """Creates a port of the other project with these attributes. Returns its id."""
        owner = {"network_id": self.theirs.id, "device_id": "evil", "device_owner": "compute:nova"}
        return str(self.api.create("network", "/v2.0/ports", port=owner | port)["id"])

    def wait_for_port_changes(self) -> None:
        """Waits until the metadata agent has received all port changes up to now."""
        newest = self.api.revision_of_ports(0)
        until(lambda: self._seen_revision() >= newest, "the agent receives the port changes")

    def _seen_revision(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            found = re.search(r"(?m)^openimds_metadata_agent_port_mirror_revision (\S+)$", answer.read().decode())
        return float(found.group(1)) if found else -1.0


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def up_options(metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    options = tmp_path_factory.mktemp("options") / "agent.ini"
    options.write_text(f"[metrics]\nport = {metrics_port}\n")
    return (f"--config-file=metadata-agent={options}",)


@pytest.fixture(scope="module")
def stage(cloud: Cloud, metrics_port: int) -> Stage:
    api = ApiClient(cloud)
    own, theirs = api.network("own", "10.8.0.0/24"), api.network("theirs", "10.9.0.0/24")
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    own_v6 = Network(own.id, api.subnet(own.id, ip_version=6, cidr=PREFIX, **modes))
    api.router("shared", own, own_v6, theirs)
    victim = api.server("victim", own, user_data=base64.b64encode(CANARY.encode()).decode())
    cloud.wait_booted(victim, "victim")
    (port,) = api.get("network", f"/v2.0/ports?device_id={victim}")["ports"]
    return Stage(cloud, api, metrics_port, victim, port, theirs)


def test_ports_of_another_project_do_not_take_over_a_guests_identity(stage: Stage, metadata_proxy: str) -> None:
    urls = [V4, V6] if metadata_proxy == "direct" else [V4]
    for url in urls:
        until(lambda url=url: stage.ask(url) == f"{CANARY} 200", f"{url} is served")  # type: ignore[misc]
    mac = stage.port["mac_address"]
    (address,) = [one["ip_address"] for one in stage.port["fixed_ips"] if "." in one["ip_address"]]  # type: ignore[attr-defined]
    twin = stage.api.subnet(stage.theirs.id, ip_version=4, cidr="10.8.0.0/16", enable_dhcp=False)
    pairs = [{"ip_address": "0.0.0.0/0", "mac_address": mac}, {"ip_address": "::/0", "mac_address": mac}]
    claims = [
        stage.claim(allowed_address_pairs=pairs),
        stage.claim(mac_address=mac, fixed_ips=[{"subnet_id": twin, "ip_address": address}]),
    ]
    try:
        stage.wait_for_port_changes()
        for url in urls:
            assert stage.ask(url) == f"{CANARY} 200"
    finally:
        for port_id in claims:
            stage.api.delete("network", f"/v2.0/ports/{port_id}")
        stage.api.delete("network", f"/v2.0/subnets/{twin}")
