"""`metadata_proxy = direct` on the whole system: chosen while it runs, without HAProxy from then on."""

from __future__ import annotations

import os
import signal

from tests.system.cloud import Cloud, until

URL = "http://169.254.169.254/latest/meta-data/hostname"


def choose(cloud: Cloud, kind: str) -> None:
    """As an operator does it: the option, and SIGHUP."""
    for part in ("dhcp-agent", "l3-agent"):
        file = cloud.state_dir / "etc" / f"{part.replace('-', '_')}.ini"
        kept = [line for line in file.read_text().splitlines() if not line.startswith("metadata_proxy =")]
        kept.insert(kept.index("[DEFAULT]") + 1, f"metadata_proxy = {kind}")
        text = "\n".join(kept) + "\n"
        file.write_text(text.replace("enable_isolated_metadata = False", "enable_isolated_metadata = True"))
        os.kill(cloud.part(part)["pid"], signal.SIGHUP)


def files(cloud: Cloud, ending: str) -> list[str]:
    return sorted(path.stem for path in (cloud.state_dir / "ns-metadata-proxy").glob(f"*.{ending}"))


def asks(cloud: Cloud, server: str) -> str:
    return cloud.inside(f"qvm-{server}", "curl", "-sf", "-m", "9", URL, check=False)


def make(cloud: Cloud, name: str, *, is_routed: bool) -> str:
    """A server on a network of its own: its id."""
    cloud.line(f"openstack network create {name}")
    cloud.line(f"openstack subnet create --network {name} --subnet-range 192.168.40.0/24 {name}")
    if is_routed:
        cloud.line(f"openstack router create {name}")
        cloud.line(f"openstack router add subnet {name} {name}")
    done = cloud.line(
        f"openstack server create --image guest --flavor m1.tiny --network {name} --wait {name} -f value -c id"
    )
    return done.strip()


def test_guests_by_the_network_and_by_a_router(fresh_cloud: Cloud) -> None:
    cloud = fresh_cloud
    cloud.up()
    choose(cloud, "haproxy")
    first = make(cloud, "first", is_routed=False)
    until(lambda: asks(cloud, first) == "first.novalocal", "HAProxy takes the guest's requests")
    choose(cloud, "direct")
    until(lambda: files(cloud, "json") and not files(cloud, "conf"), "the metadata agent listens instead")
    assert asks(cloud, first) == "first.novalocal"
    second = make(cloud, "second", is_routed=True)  # the same addresses, on another network
    until(lambda: len(files(cloud, "json")) == 2, "an isolated network and a router have listeners")
    assert files(cloud, "conf") == []
    until(lambda: asks(cloud, second) == "second.novalocal", "the second network's guest has its own answers")
    os.kill(cloud.part("metadata-agent")["pid"], signal.SIGKILL)
    assert asks(cloud, first) == "first.novalocal"  # who connects meanwhile waits for the next agent
    assert asks(cloud, second) == "second.novalocal"
    choose(cloud, "haproxy")
    until(lambda: len(files(cloud, "conf")) == 2 and not files(cloud, "json"), "HAProxies again")
    assert asks(cloud, first) == "first.novalocal"
    assert asks(cloud, second) == "second.novalocal"
