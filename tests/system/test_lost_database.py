"""The database is emptied, or restored from an older copy, while instances run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.callers import network_caller
from tests.system.api_client import ApiClient, Network
from tests.system.cloud import Cloud
from tests.waiting import until

from openimds.store.engine import Store
from openimds.store.network.network_store import NetworkStore

URL = "http://169.254.169.254/latest/meta-data/instance-id"
FILES = ("openimds.sqlite", "openimds.sqlite-wal", "openimds.sqlite-shm")


@pytest.fixture
def network(fresh_cloud: Cloud) -> Network:
    fresh_cloud.up()
    api = ApiClient(fresh_cloud)
    network = api.network("n", "192.168.40.0/24")
    api.router("r", network)
    return network


def boot(cloud: Cloud, network: Network, name: str) -> str:
    server_id = ApiClient(cloud).server(name, network)
    cloud.wait_booted(server_id, name)
    return server_id


def is_served(cloud: Cloud, server_id: str) -> bool:
    return cloud.reaches(f"qvm-{server_id}", "curl", "-sf", "-m", "5", URL)


def copy_database(cloud: Cloud, target: Path) -> None:
    """A consistent copy, as `sqlite3 .backup` makes."""
    cloud.line(
        f"python3 -c \"import sqlite3; sqlite3.connect('{cloud.state_dir}/openimds.sqlite')"
        f".backup(sqlite3.connect('{target}'))\""
    )


def restore_database(cloud: Cloud, copy: Path) -> None:
    """Replaces the database under the running agents: only the control API and the metadata API are restarted."""
    for name in FILES:
        (cloud.state_dir / name).unlink(missing_ok=True)
    shutil.copy(copy, cloud.state_dir / "openimds.sqlite")
    for part in ("control-api", "metadata-api"):
        cloud.openimds("restart", part)


def adopt(cloud: Cloud) -> None:
    cloud.line(f"openimds host adopt --state-dir {cloud.state_dir}")


def suspended_parts(cloud: Cloud) -> set[str]:
    status = json.loads(cloud.openimds("status", "--output", "json", check=False).stdout)
    parts = [part for part in status["parts"] if any("host adopt" in error for error in part["errors"])]
    return {part["name"] for part in parts}


def test_instances_survive_an_older_copy_of_the_database(fresh_cloud: Cloud, network: Network, tmp_path: Path) -> None:
    cloud = fresh_cloud
    first = boot(cloud, network, "first")
    copy_database(cloud, tmp_path / "copy.sqlite")
    second = boot(cloud, network, "second")
    until(lambda: is_served(cloud, second), "the second instance is served")
    restore_database(cloud, tmp_path / "copy.sqlite")
    agents = {"compute-agent", "dhcp-agent", "l3-agent", "metadata-agent"}
    until(lambda: suspended_parts(cloud) == agents, "the agents suspend removals")
    api = ApiClient(cloud)
    other = api.network("other", "192.168.41.0/24")
    api.router("r2", other)
    third = boot(cloud, other, "third")
    assert is_served(cloud, third)
    assert is_served(cloud, first)
    assert is_served(cloud, second)
    for part in ("compute-agent", "dhcp-agent", "l3-agent"):
        cloud.openimds("restart", part)
    until(lambda: suspended_parts(cloud) == agents, "the restarted agents suspend removals")
    assert cloud.disk(second).exists()
    assert cloud.reaches(f"qvm-{second}", "true")
    adopt(cloud)
    until(lambda: not (cloud.state_dir / "instances" / second).exists(), "the lost instance is removed")
    until(lambda: not suspended_parts(cloud), "the agents accept the database")
    assert is_served(cloud, first)
    assert is_served(cloud, third)


def test_instances_survive_a_copy_whose_revisions_have_overtaken_the_agents(
    fresh_cloud: Cloud, network: Network, tmp_path: Path
) -> None:
    """The copy looked like a newer database, and the compute agent deleted the lost server with its disk."""
    cloud = fresh_cloud
    first = boot(cloud, network, "first")
    copy_database(cloud, tmp_path / "copy.sqlite")
    lost = boot(cloud, network, "lost")
    until(lambda: is_served(cloud, lost), "the instance is served")
    cloud.openimds("down")
    for name in FILES:
        (cloud.state_dir / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "copy.sqlite", cloud.state_dir / "openimds.sqlite")
    store = Store(f"sqlite:///{cloud.state_dir}/openimds.sqlite")
    for _ in range(100):
        NetworkStore(store).create("network", network_caller("p"), [{"name": "n"}])
    store.close()
    cloud.up()
    agents = {"compute-agent", "dhcp-agent", "l3-agent", "metadata-agent"}
    until(lambda: suspended_parts(cloud) == agents, "the agents suspend removals")
    assert cloud.disk(lost).exists()
    assert cloud.disk(first).exists()
    adopt(cloud)
    until(lambda: not (cloud.state_dir / "instances" / lost).exists(), "the lost instance is removed")


def test_up_refuses_an_empty_database_beside_instances(fresh_cloud: Cloud, network: Network) -> None:
    cloud = fresh_cloud
    server_id = boot(cloud, network, "vm")
    cloud.openimds("down")
    for name in FILES:
        (cloud.state_dir / name).unlink(missing_ok=True)
    refused = cloud.up(check=False)
    assert refused.returncode == 1
    assert "host adopt" in refused.stdout + refused.stderr
    assert cloud.disk(server_id).exists()
    assert not (cloud.state_dir / "openimds.sqlite").exists()
    adopt(cloud)
    cloud.up()
    until(lambda: not (cloud.state_dir / "instances" / server_id).exists(), "the instance is removed")
