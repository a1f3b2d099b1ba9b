"""The command lines of the user guide, run with python-openstackclient, and their effects.

The tests run in order on one system. The guide follows the seeds.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.system.cloud import METADATA_PROXIES, Cloud, run
from tests.waiting import until

METADATA = "http://169.254.169.254"
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "user-guide.md"
FIRST_LINES = """\
openstack network create test1
openstack subnet create --network test1 --subnet-range 192.168.40.0/24 test1-v4
openstack keypair create --public-key id.pub mykey
openstack server create --image guest --flavor m1.tiny --network test1 --key-name mykey --user-data boot.sh \
--property role=web --wait vm1
"""
ROUTER_LINES = """\
openstack router create r1
openstack router add subnet r1 test1-v4
openstack server reboot --wait vm1
"""


@dataclass(frozen=True, slots=True)
class Walkthrough:
    """The system on which the tests run in order."""

    cloud: Cloud
    folder: Path
    metadata_proxy: str

    def type(self, lines: str) -> None:
        for line in lines.splitlines():
            self.cloud.line(line, cwd=self.folder)

    def id_of(self, kind: str, name: str) -> str:
        return str(self.cloud.json(f"openstack {kind} show {name}")["id"])

    def guest(self, path: str) -> str:
        """The document that vm1 reads."""
        return self.cloud.inside(f"qvm-{self.id_of('server', 'vm1')}", "curl", "-sf", f"{METADATA}{path}")

    @property
    def is_direct(self) -> bool:
        return self.metadata_proxy == "direct"

    def listener(self) -> str:
        """The name of the listening program in the output of `ss`."""
        return "openimds" if self.is_direct else "haproxy"

    def proxies(self) -> list[str]:
        """The HAProxy command lines of this system: `haproxy -f <state>/ns-metadata-proxy/<id>.conf`."""
        ours = f"haproxy -f {self.cloud.state_dir}/ns-metadata-proxy/"
        return [line for line in run(["ps", "-wweo", "args"]).stdout.splitlines() if line.startswith(ours)]

    def proxy_of(self, id_: str) -> list[str]:
        """The expected `proxies()` if only the namespace of this network or router serves metadata."""
        if self.is_direct:
            return []
        return [f"haproxy -f {self.cloud.state_dir}/ns-metadata-proxy/{id_}.conf"]

    def wait_until_vm1_has_its_metadata(self) -> None:
        key = (self.folder / "id.pub").read_text().split()[1]
        expected = ("user data runs on vm1", key, "vm1 login:")
        until(lambda: all(text in self.cloud.console("vm1") for text in expected), "vm1 has its user data and key")


@pytest.fixture(scope="module", params=METADATA_PROXIES)
def metadata_proxy(request: pytest.FixtureRequest) -> str:
    """All tests run in each mode, on a system of its own."""
    return str(request.param)


@pytest.fixture(scope="module")
def up_options(metadata_proxy: str) -> tuple[str, ...]:
    return ("--metadata-proxy", metadata_proxy)


@pytest.fixture(scope="module")
def walkthrough(cloud: Cloud, metadata_proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Walkthrough:
    folder = tmp_path_factory.mktemp("typed")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "walkthrough", "-f", str(folder / "id")])
    (folder / "boot.sh").write_text('#!/bin/sh\necho "user data runs on $(hostname)"\n')
    return Walkthrough(cloud, folder, metadata_proxy)


def test_guide_has_these_command_lines() -> None:
    shown = [
        shlex.split(line, comments=True) for line in GUIDE.read_text().splitlines() if line.startswith("openstack")
    ]
    assert all(shlex.split(line) in shown for line in (FIRST_LINES + ROUTER_LINES).splitlines())


def test_instance_without_a_router_fails_after_twenty_tries(walkthrough: Walkthrough) -> None:
    walkthrough.type(FIRST_LINES)
    until(lambda: "tried 20" in walkthrough.cloud.console("vm1"), "the twentieth try")
    failed = re.findall(r"failed (\d+)/20", walkthrough.cloud.console("vm1"))
    assert failed == [str(number) for number in range(1, 21)]
    assert "user data runs" not in walkthrough.cloud.console("vm1")
    assert walkthrough.proxies() == []


def test_router_and_reboot_give_the_instance_its_metadata(walkthrough: Walkthrough) -> None:
    walkthrough.type(ROUTER_LINES)
    walkthrough.wait_until_vm1_has_its_metadata()
    vm1, r1 = walkthrough.id_of("server", "vm1"), walkthrough.id_of("router", "r1")
    assert walkthrough.proxies() == walkthrough.proxy_of(r1)
    assert "default via 192.168.40.1 dev eth0" in walkthrough.cloud.inside(f"qvm-{vm1}", "ip", "route")
    redirect = "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
    assert redirect in walkthrough.cloud.inside(f"qrouter-{r1}", "iptables", "-t", "nat", "-S").splitlines()
    counted = walkthrough.cloud.inside(f"qrouter-{r1}", "iptables", "-t", "nat", "-L", "PREROUTING", "-n", "-v", "-x")
    packets = [int(line.split()[0]) for line in counted.splitlines() if "redir ports 9697" in line]
    assert len(packets) == 1
    assert packets[0] > 0
    sockets = walkthrough.cloud.inside(f"qrouter-{r1}", "ss", "-lntp")
    assert re.search(rf":9697\b.*{walkthrough.listener()}", sockets)


def test_documents_have_the_values_of_the_server(walkthrough: Walkthrough) -> None:
    document = walkthrough.guest("/openstack/latest/meta_data.json")
    assert f'"uuid": "{walkthrough.id_of("server", "vm1")}"' in document
    assert '"meta": {"role": "web"}' in document
    key = (walkthrough.folder / "id.pub").read_text().strip()
    assert walkthrough.guest("/latest/meta-data/public-keys/0/openssh-key") == key
    assert walkthrough.guest("/latest/user-data") == (walkthrough.folder / "boot.sh").read_text()


def test_request_id_is_in_the_log_of_every_hop(walkthrough: Walkthrough) -> None:
    vm1 = walkthrough.id_of("server", "vm1")
    forged = "req-00000000-0000-4000-8000-000000000000"
    answer = walkthrough.cloud.inside(
        f"qvm-{vm1}", "curl", "-si", "-H", f"X-Openstack-Request-Id: {forged}", f"{METADATA}/latest/meta-data/hostname"
    )
    found = re.search(r"(?im)^x-openstack-request-id: (req-[0-9a-f-]{36})\s*$", answer)
    assert found, answer
    request_id = found.group(1)
    assert request_id != forged, "the request id of a guest is ignored"

    def hops() -> tuple[int, int]:
        logs = (walkthrough.cloud.log(name).splitlines() for name in ("metadata-agent", "metadata-api"))
        at_agent, at_api = (sum(request_id in line for line in log) for log in logs)
        return at_agent, at_api

    # The agent has the record of the instance, so the metadata API does not serve the request. In haproxy mode HAProxy
    # logs only requests that the agent does not log (`log_requests`, tests/kernel/test_metadata_path.py).
    expected = (1, 0)
    until(lambda: hops() == expected, f"{request_id} at every hop")
    lines = walkthrough.cloud.log("metadata-agent").splitlines()
    assert any(vm1 in line for line in lines if request_id in line)


def test_force_metadata_serves_metadata_from_the_dhcp_namespace(walkthrough: Walkthrough) -> None:
    walkthrough.type("openstack router remove subnet r1 test1-v4\nopenstack router delete r1")
    ini = walkthrough.cloud.state_dir / "etc" / "dhcp_agent.ini"
    ini.write_text(ini.read_text().replace("force_metadata = False", "force_metadata = True"))
    walkthrough.cloud.openimds("restart", "dhcp-agent")
    vm1, test1 = walkthrough.id_of("server", "vm1"), walkthrough.id_of("network", "test1")
    ending = "json" if walkthrough.is_direct else "conf"
    until(lambda: walkthrough.cloud.proxy_files(ending) == [test1], "the network's listener is the only one")
    until(lambda: walkthrough.proxies() == walkthrough.proxy_of(test1), "the network's proxy is the only one")
    assert re.search(
        rf"169\.254\.169\.254:80\b.*{walkthrough.listener()}", walkthrough.cloud.inside(f"qdhcp-{test1}", "ss", "-lntp")
    )
    shown = walkthrough.cloud.inside(f"qdhcp-{test1}", "ip", "a")
    assert re.search(r"inet 169\.254\.169\.254/16 brd 169\.254\.255\.255 scope global tap", shown)
    own = re.search(r"inet (192\.168\.40\.\d+)/24 brd 192\.168\.40\.255 scope global tap", shown)
    assert own, shown
    walkthrough.type("openstack server reboot --wait vm1")
    walkthrough.wait_until_vm1_has_its_metadata()
    routes = walkthrough.cloud.inside(f"qvm-{vm1}", "ip", "route")
    assert f"169.254.169.254 via {own.group(1)} dev eth0" in routes


def test_instances_of_two_projects_with_the_same_address_read_their_own_data(walkthrough: Walkthrough) -> None:
    """Needs the metadata in the DHCP namespaces from the test before."""
    servers = {project: _tenant(walkthrough, project) for project in ("acme", "globex")}
    for project, other in (("acme", "globex"), ("globex", "acme")):
        until(partial(_has_run, walkthrough, project), f"{project}'s user data ran")
        documents = ("meta-data/hostname", "user-data", "meta-data/local-ipv4", "meta-data/public-keys/0/openssh-key")
        answers = "\n".join(
            walkthrough.cloud.inside(f"qvm-{servers[project]}", "curl", "-sf", f"{METADATA}/latest/{path}")
            for path in documents
        )
        for own in (f"{project}-vm", f"canary of {project}", "192.168.40.50", f" {project}"):
            assert own in answers
        assert other not in answers
        meta_data = walkthrough.cloud.inside(
            f"qvm-{servers[project]}", "curl", "-sf", f"{METADATA}/openstack/latest/meta_data.json"
        )
        assert servers[project] in meta_data
        assert servers[other] not in meta_data
    assert "No Server found" in walkthrough.cloud.refused(f"openstack {_as('globex')} server show acme-vm")


def test_deleted_server_leaves_no_resources(walkthrough: Walkthrough) -> None:
    vm1 = walkthrough.id_of("server", "vm1")
    tap = "tap" + walkthrough.cloud.json("openstack port list --server vm1")[0]["ID"][:11]
    assert tap in run(["ip", "-br", "link"]).stdout
    walkthrough.type("openstack server delete --wait vm1")
    until(lambda: tap not in run(["ip", "-br", "link"]).stdout, f"{tap} is gone")
    until(lambda: f"qvm-{vm1}" not in run(["ip", "netns", "list"]).stdout, "its namespace is gone")
    until(lambda: not (walkthrough.cloud.state_dir / "instances" / vm1).exists(), "its files are gone")


def _as(project: str) -> str:
    return f"--os-username {project}-user --os-password {project}-pw --os-project-name {project}"


def _has_run(walkthrough: Walkthrough, project: str) -> bool:
    log = walkthrough.cloud.line(f"openstack {_as(project)} console log show {project}-vm")
    return f"canary of {project} on {project}-vm" in log


def _tenant(walkthrough: Walkthrough, project: str) -> str:
    (walkthrough.folder / f"{project}.sh").write_text(f'#!/bin/sh\necho "canary of {project} on $(hostname)"\n')
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", project, "-f", str(walkthrough.folder / project)]
    run(key)
    walkthrough.type(
        f"openstack project create {project}\n"
        f"openstack user create --project {project} --password {project}-pw {project}-user\n"
        f"openstack role add --project {project} --user {project}-user member\n"
        f"openstack {_as(project)} network create private\n"
        f"openstack {_as(project)} subnet create --network private --subnet-range 192.168.40.0/24 v4\n"
        f"openstack {_as(project)} keypair create --public-key {project}.pub key\n"
        f"openstack {_as(project)} server create --image guest --flavor m1.tiny --key-name key "
        f"--nic net-id=private,v4-fixed-ip=192.168.40.50 --user-data {project}.sh --wait {project}-vm"
    )
    return walkthrough.cloud.line(f"openstack {_as(project)} server show {project}-vm -f value -c id").strip()
