"""A router that a member attaches to another project's shared network by a port of the member's.

The member's guest behind the router takes the address and the MAC of a guest on the shared network. The API refuses the
extra route that would send the responses to the member's guest, so that the test writes the route into the database.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass

import pytest
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud, run
from tests.system.raw_guest import user_data
from tests.waiting import HANG_SECONDS, until

pytestmark = [pytest.mark.usefixtures("metadata_proxy"), pytest.mark.timeout(300)]

URL = "http://169.254.169.254/latest/user-data"
GATEWAY, GUEST = "10.1.0.1", "10.1.0.9"


@dataclass(frozen=True, slots=True)
class Stage:
    cloud: Cloud
    victim: str
    address: str
    mac: str
    router: str
    foe: str
    foe_mac: str

    def ask(self, server: str, *options: str) -> str:
        """The response body and status."""
        argv = ("curl", "-s", "-m", "10", "-w", " %{http_code}", *options, URL)
        return self.cloud.inside(f"qvm-{server}", *argv, check=False)

    def ip(self, namespace: str, *argv: str) -> str:
        return run(["ip", "-n", f"{self.cloud.prefix}{namespace}", *argv]).stdout


@pytest.fixture(scope="module")
def stage(cloud: Cloud) -> Stage:
    admin = ApiClient(cloud)
    shared = admin.create("network", "/v2.0/networks", network={"name": "shared", "shared": True})["id"]
    v4 = Network(shared, admin.subnet(shared, ip_version=4, cidr="10.3.0.0/24"))
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    v6 = Network(shared, admin.subnet(shared, ip_version=6, cidr="fd00:8::/64", **modes))
    admin.router("operators", v4, v6)
    victim_api, foe_api = admin.member("victim"), admin.member("foe")
    victim = victim_api.server("victim", v4, user_data=base64.b64encode(user_data("victim")).decode())
    own = foe_api.network("own", "10.1.0.0/24")
    router = foe_api.router("r", own)
    leg = foe_api.create("network", "/v2.0/ports", port={"network_id": shared})["id"]
    foe_api.put("network", f"/v2.0/routers/{router}/add_router_interface", {"port_id": leg})
    open_port = {"network_id": own.id, "port_security_enabled": False, "fixed_ips": [{"ip_address": GUEST}]}
    port = foe_api.create("network", "/v2.0/ports", port=open_port)
    foe = foe_api.server("foe", own, networks=[{"port": port["id"]}], user_data=base64.b64encode(b"own").decode())
    cloud.wait_booted(victim, "victim")
    cloud.wait_booted(foe, "foe")
    (seen,) = admin.get("network", f"/v2.0/ports?device_id={victim}")["ports"]
    (address,) = [one["ip_address"] for one in seen["fixed_ips"] if "." in one["ip_address"]]
    diversion = [{"destination": f"{address}/32", "nexthop": GUEST}]
    refused = foe_api.request("network", "PUT", f"/v2.0/routers/{router}", {"router": {"routes": diversion}})
    assert refused.status_code == 400
    with closing(sqlite3.connect(cloud.state_dir / "openimds.sqlite", isolation_level=None)) as store:
        store.execute(f"PRAGMA busy_timeout = {HANG_SECONDS * 1000:.0f}")
        store.execute("UPDATE routers SET routes = ? WHERE id = ?", (json.dumps(diversion), router))
    foe_api.put("network", f"/v2.0/routers/{router}", {"router": {"name": "forged"}})
    made = Stage(cloud, victim, address, seen["mac_address"], router, foe, port["mac_address"])
    until(
        lambda: f"{address} via {GUEST}" in made.ip(f"qrouter-{router}", "route"), "the route to the guest is installed"
    )
    made.ip(f"qvm-{foe}", "route", "replace", "169.254.169.254", "via", GATEWAY, "dev", "eth0")
    made.ip(f"qvm-{foe}", "address", "replace", f"{address}/32", "dev", "lo")
    return made


def test_guest_with_a_stolen_address_reads_no_data_of_its_owner(stage: Stage) -> None:
    namespace = f"qvm-{stage.foe}"
    until(lambda: stage.ask(stage.foe) == "own 200", "the member's guest reads its own data")
    assert stage.ask(stage.foe, "--interface", stage.address).endswith(" 404")
    stage.ip(namespace, "link", "set", "eth0", "address", stage.mac)
    stage.ip(f"qrouter-{stage.router}", "neigh", "flush", "all")
    try:
        assert stage.ask(stage.foe, "--interface", stage.address).endswith(" 404")
    finally:
        stage.ip(namespace, "link", "set", "eth0", "address", stage.foe_mac)
        stage.ip(f"qrouter-{stage.router}", "neigh", "flush", "all")
    assert stage.ask(stage.victim) == f"{user_data('victim').decode()} 200"


def test_member_router_sends_no_router_advertisements(stage: Stage) -> None:
    defaults = stage.ip(f"qvm-{stage.victim}", "-6", "route", "show", "default")
    assert defaults.count("via fe80") <= 1
    radvd = stage.cloud.state_dir / "ra" / f"{stage.router}.radvd.conf"
    assert not radvd.exists()
    assert "fe80::a9fe:a9fe" not in stage.ip(f"qrouter-{stage.router}", "-6", "address")
