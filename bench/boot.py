"""The time from the return of `server create` to the first metadata document that the instance reads."""

from __future__ import annotations

import json
import statistics
import urllib.request
from datetime import UTC, datetime

from tests.system.cloud import Cloud
from tests.waiting import until

BOOTS = 10


def measured(cloud: Cloud) -> list[str]:
    """Lines for RESULTS.md."""
    cloud.line("openstack network create boots")
    cloud.line("openstack subnet create --network boots --subnet-range 10.20.0.0/24 boots-v4")
    cloud.line("openstack router create boots")
    cloud.line("openstack router add subnet boots boots-v4")
    seconds = sorted(_one_boot(cloud, number) for number in range(BOOTS))
    return [
        "## From `server create` returning to the first document read",
        "",
        (
            f"{BOOTS} boots, one after the other, of the netns driver (real DHCP client, path through the router): "
            f"median **{statistics.median(seconds):.2f} s**, fastest {seconds[0]:.2f} s, slowest {seconds[-1]:.2f} s."
        ),
    ]


def _one_boot(cloud: Cloud, number: int) -> float:
    token = cloud.line("openstack token issue -f value -c id").strip()
    network = cloud.line("openstack network show boots -f value -c id").strip()
    image = cloud.line("openstack image show guest -f value -c id").strip()
    flavor = cloud.line("openstack flavor show m1.tiny -f value -c id").strip()
    body = {
        "server": {"name": f"boot{number}", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network}]}
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{cloud.control_port}/compute/v2.1/servers",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "X-Auth-Token": token},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        server = json.load(answer)["server"]["id"]
    returned = datetime.now(UTC)
    first = until(lambda: _first_answer(cloud, server), f"boot{number} reads a document")
    assert first is not None  # until the line is written
    cloud.line(f"openstack server delete --wait boot{number}")
    return (first - returned).total_seconds()


def _first_answer(cloud: Cloud, server: str) -> datetime | None:
    """The time of the agent's first log line with status 200 for this instance (console lines begin with it, JSON has it)."""
    for line in cloud.log("metadata-agent").splitlines():
        if server in line and "200" in line:
            return _time_of(line)
    return None


def _time_of(line: str) -> datetime:
    stamp = json.loads(line)["timestamp"] if line.startswith("{") else line.split(maxsplit=1)[0]
    return datetime.fromisoformat(stamp)
