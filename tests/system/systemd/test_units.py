"""The systemd units under a real systemd, installed by the commands of docs/guide/systemd.md."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.system import pollers
from tests.system.pollers import Pollers
from tests.system.systemd.host import NEXT_VERSION, Host, booted_host
from tests.waiting import until

from openimds import __version__
from openimds.config.programs import PROGRAMS

pytestmark = [
    pytest.mark.timeout(1200),  # includes the build of a root file system
    pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="systemd-container is not installed"),
]

UNITS = tuple(f"openimds-{name}" for name in PROGRAMS)
POLLING = Path(__file__).parents[1] / "polling.py"
METADATA = "http://169.254.169.254/latest/meta-data/instance-id"


@dataclass(frozen=True, slots=True)
class Server:
    namespace: str
    instance_id: str


@pytest.fixture(scope="module")
def host(only_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host that is installed, configured and started by the guide's commands."""
    with booted_host(tmp_path_factory.mktemp("host")) as booted:
        booted.follow("Install")
        booted.follow("Configure")
        # Direct mode in the networks' namespaces, HAProxy in the routers'.
        booted.sh("echo metadata_proxy = direct >>/etc/openimds/dhcp_agent.ini")
        try:
            output = booted.follow("Start")
        except AssertionError as error:
            error.add_note(booted.journal())
            raise
        assert output.split() == ["active"] * len(UNITS)
        (booted.folder / "clouds.yaml").write_text(booted.sh("cat /root/.config/openstack/clouds.yaml"))
        yield booted


@pytest.fixture(scope="module")
def servers(host: Host) -> dict[str, Server]:
    """A server on a network without a router, and a server behind a router."""
    for line in (
        "network create alone",
        "subnet create --network alone --subnet-range 10.1.0.0/24 alone",
        "network create routed",
        "subnet create --network routed --subnet-range 10.2.0.0/24 routed",
        "router create edge",
        "router add subnet edge routed",
    ):
        host.openstack(line)
    return {name: _server(host, name) for name in ("alone", "routed")}


def _server(host: Host, name: str) -> Server:
    found = host.openstack(
        f"server create --image guest --flavor m1.tiny --network {name} --wait {name} -f value -c id"
    )

    def booted() -> bool:
        return f"{name} login:" in host.openstack(f"console log show {name}")

    try:
        until(booted, f"{name} has booted")
    except AssertionError as error:
        error.add_note(host.journal())
        raise
    namespace = f"qvm-{found}"
    return Server(namespace, host.sh(f"ip netns exec {namespace} curl --silent --fail {METADATA}"))


@pytest.fixture(params=["alone", "routed"])
def polling(request: pytest.FixtureRequest, host: Host, servers: dict[str, Server]) -> Iterator[Pollers]:
    server = servers[request.param]
    host.write("/root/polling.py", POLLING.read_bytes())
    argv = ["/opt/openimds/bin/python", "/root/polling.py", "169.254.169.254", "80", server.instance_id]
    argv = [*host.entered(server.namespace), *argv]
    with pollers.polling(*argv) as made:
        yield made


def test_files_with_secrets_have_the_modes_of_the_guide(host: Host) -> None:
    modes = host.sh("stat -c '%a %U %G %n' /etc/openimds/* /var/lib/openimds-api /root/.config/openstack/clouds.yaml")
    assert {line.rpartition("/")[2]: line.split()[:3] for line in modes.splitlines()} == {
        "nova.conf": ["640", "root", "openimds"],
        "neutron.conf": ["600", "root", "root"],
        "metadata_agent.ini": ["600", "root", "root"],
        "dhcp_agent.ini": ["600", "root", "root"],
        "clouds.yaml": ["600", "root", "root"],
        "openimds-api": ["750", "openimds", "openimds"],
    }
    # Other users cannot read the database, the images or the token keys.
    refused = host.sh("runuser --user haproxy -- ls /var/lib/openimds-api 2>&1", check=False)
    assert "Permission denied" in refused


def test_apis_have_no_capabilities(host: Host) -> None:
    for name in ("control-api", "metadata-api"):
        pid = host.shown(f"openimds-{name}", "MainPID")
        status = host.sh(f"cat /proc/{pid}/status")
        assert "CapEff:\t0000000000000000" in status
        assert host.sh(f"ps -o user= -p {pid}").strip() == "openimds"


def test_sockets_are_in_the_fd_store_of_systemd(host: Host, servers: dict[str, Server]) -> None:
    # Two unix sockets, and the listener of the network without a router.
    assert host.shown("openimds-metadata-agent", "NFileDescriptorStore") == "3"
    for name in ("control-api", "metadata-api"):
        assert host.shown(f"openimds-{name}", "NFileDescriptorStore") == "1"


@pytest.mark.parametrize("name", ["metadata-agent", "metadata-api", "control-api"])
def test_systemctl_restart_fails_no_request(name: str, host: Host, polling: Pollers) -> None:
    before = host.shown(f"openimds-{name}", "MainPID")
    host.sh(f"systemctl restart openimds-{name}")
    assert host.shown(f"openimds-{name}", "MainPID") != before
    polling.polled_on()
    assert polling.tally()["failures"] == []


def test_sigkill_of_the_metadata_agent_refuses_no_connection(host: Host, polling: Pollers) -> None:
    unit = "openimds-metadata-agent"
    before = host.shown(unit, "MainPID")
    host.sh(f"kill -9 {before}")
    until(lambda: host.shown(unit, "MainPID") != before, "systemd has reaped the process")
    dead_at = time.monotonic()  # polling.py uses the same clock
    until(lambda: _runs_again(host, unit, before), "systemd has restarted the agent")
    polling.polled_on()
    # Requests in flight fail. No connection is refused, and no later request fails.
    failures = polling.tally()["failures"]
    assert [one for one in failures if one["sent_at"] > dead_at or "refused" in one["error"].lower()] == []


def _runs_again(host: Host, unit: str, before: str) -> bool:
    return host.shown(unit, "MainPID") not in {before, "0"} and host.shown(unit, "ActiveState") == "active"


@pytest.mark.parametrize("name", ["dhcp-agent", "l3-agent", "compute-agent"])
def test_processes_of_an_agent_outlive_its_restart(name: str, host: Host, servers: dict[str, Server]) -> None:
    before = host.children()
    assert any("dnsmasq" in child for child in before)
    assert any("haproxy" in child for child in before)
    host.sh(f"systemctl restart openimds-{name}")
    assert host.children() >= before
    for server in servers.values():
        output = host.sh(f"ip netns exec {server.namespace} curl --silent --fail {METADATA}")
        assert output == server.instance_id


def test_upgrade_and_downgrade_fail_no_request(host: Host, polling: Pollers) -> None:
    for wheel, version in (("next", NEXT_VERSION), ("this", __version__)):
        host.sh(f"rm dist/*.whl && cp {wheel}/*.whl dist/")
        before = {unit: host.shown(unit, "MainPID") for unit in UNITS}
        output = host.follow("Upgrade")
        assert output.split() == ["active"] * len(UNITS)
        assert version in host.sh("openimds version")
        assert not [unit for unit in UNITS if host.shown(unit, "MainPID") == before[unit]]
        polling.polled_on()
    polling.polled_on()
    assert polling.tally()["failures"] == []
    assert "Traceback" not in host.journal()
