"""The seeds' story, its lines typed as they stand in the user guide, with python-openstackclient."""

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
class Story:
    """The tests of this file are its chapters and run in order, on one system."""

    cloud: Cloud
    folder: Path
    metadata_proxy: str

    def type(self, lines: str) -> None:
        for line in lines.splitlines():
            self.cloud.line(line, cwd=self.folder)

    def id_of(self, kind: str, name: str) -> str:
        return str(self.cloud.json(f"openstack {kind} show {name}")["id"])

    def guest(self, path: str) -> str:
        """What vm1 is answered."""
        return self.cloud.inside(f"qvm-{self.id_of('server', 'vm1')}", "curl", "-sf", f"{METADATA}{path}")

    @property
    def is_direct(self) -> bool:
        return self.metadata_proxy == "direct"

    def listener(self) -> str:
        """Who listens, as `ss` has it."""
        return "openimds" if self.is_direct else "haproxy"

    def proxies(self) -> list[str]:
        """`ps`, as in the seeds: `haproxy -f <state>/ns-metadata-proxy/<id>.conf`."""
        ours = f"haproxy -f {self.cloud.state_dir}/ns-metadata-proxy/"
        return [line for line in run(["ps", "-wweo", "args"]).stdout.splitlines() if line.startswith(ours)]

    def proxy_of(self, id_: str) -> list[str]:
        """What must be in `proxies()` when the namespace of this network or router serves metadata, alone."""
        if self.is_direct:
            return []
        return [f"haproxy -f {self.cloud.state_dir}/ns-metadata-proxy/{id_}.conf"]

    def wait_until_vm1_knows_itself(self) -> None:
        key = (self.folder / "id.pub").read_text().split()[1]
        expected = ("user data speaks on vm1", key, "vm1 login:")
        until(lambda: all(text in self.cloud.console("vm1") for text in expected), "vm1 knows itself")


@pytest.fixture(scope="module", params=METADATA_PROXIES)
def metadata_proxy(request: pytest.FixtureRequest) -> str:
    """The whole story is told for each, on a system of its own."""
    return str(request.param)


@pytest.fixture(scope="module")
def up_options(metadata_proxy: str) -> tuple[str, ...]:
    return ("--metadata-proxy", metadata_proxy)


@pytest.fixture(scope="module")
def story(cloud: Cloud, metadata_proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("typed")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "story", "-f", str(folder / "id")])
    (folder / "boot.sh").write_text('#!/bin/sh\necho "user data speaks on $(hostname)"\n')
    return Story(cloud, folder, metadata_proxy)


def test_the_guide_shows_these_lines() -> None:
    shown = [
        shlex.split(line, comments=True) for line in GUIDE.read_text().splitlines() if line.startswith("openstack")
    ]
    assert all(shlex.split(line) in shown for line in (FIRST_LINES + ROUTER_LINES).splitlines())


def test_without_a_router_twenty_tries_fail(story: Story) -> None:
    story.type(FIRST_LINES)
    until(lambda: "tried 20" in story.cloud.console("vm1"), "the twentieth try")
    failed = re.findall(r"failed (\d+)/20", story.cloud.console("vm1"))
    assert failed == [str(number) for number in range(1, 21)]
    assert "user data speaks" not in story.cloud.console("vm1")
    assert story.proxies() == []


def test_a_router_and_a_reboot_bring_the_instance_its_own_answers(story: Story) -> None:
    story.type(ROUTER_LINES)
    story.wait_until_vm1_knows_itself()
    vm1, r1 = story.id_of("server", "vm1"), story.id_of("router", "r1")
    assert story.proxies() == story.proxy_of(r1)
    assert "default via 192.168.40.1 dev eth0" in story.cloud.inside(f"qvm-{vm1}", "ip", "route")
    redirect = "-A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
    assert redirect in story.cloud.inside(f"qrouter-{r1}", "iptables", "-t", "nat", "-S").splitlines()
    counted = story.cloud.inside(f"qrouter-{r1}", "iptables", "-t", "nat", "-L", "PREROUTING", "-n", "-v", "-x")
    packets = [int(line.split()[0]) for line in counted.splitlines() if "redir ports 9697" in line]
    assert len(packets) == 1
    assert packets[0] > 0
    sockets = story.cloud.inside(f"qrouter-{r1}", "ss", "-lntp")
    assert re.search(rf":9697\b.*{story.listener()}", sockets)


def test_the_documents_are_what_was_asked_for(story: Story) -> None:
    document = story.guest("/openstack/latest/meta_data.json")
    assert f'"uuid": "{story.id_of("server", "vm1")}"' in document
    assert '"meta": {"role": "web"}' in document
    key = (story.folder / "id.pub").read_text().strip()
    assert story.guest("/latest/meta-data/public-keys/0/openssh-key") == key
    assert story.guest("/latest/user-data") == (story.folder / "boot.sh").read_text()


def test_one_request_is_followed_through_the_logs_by_its_id(story: Story) -> None:
    vm1 = story.id_of("server", "vm1")
    forged = "req-00000000-0000-4000-8000-000000000000"
    answer = story.cloud.inside(
        f"qvm-{vm1}", "curl", "-si", "-H", f"X-Openstack-Request-Id: {forged}", f"{METADATA}/latest/meta-data/hostname"
    )
    found = re.search(r"(?im)^x-openstack-request-id: (req-[0-9a-f-]{36})\s*$", answer)
    assert found, answer
    request_id = found.group(1)
    assert request_id != forged, "a guest's own id is not taken"

    def hops() -> tuple[int, int]:
        logs = (story.cloud.log(name).splitlines() for name in ("metadata-agent", "metadata-api"))
        at_agent, at_api = (sum(request_id in line for line in log) for log in logs)
        return at_agent, at_api

    # HAProxy's own line is in the agent's log: two lines there, one in the metadata API's. Directly the agent answers.
    expected = (1, 0) if story.is_direct else (2, 1)
    until(lambda: hops() == expected, f"{request_id} at every hop")
    last = story.cloud.log("metadata-agent" if story.is_direct else "metadata-api")
    assert vm1 in next(line for line in last.splitlines() if request_id in line)


def test_force_metadata_serves_it_from_the_dhcp_namespace(story: Story) -> None:
    story.type("openstack router remove subnet r1 test1-v4\nopenstack router delete r1")
    ini = story.cloud.state_dir / "etc" / "dhcp_agent.ini"
    ini.write_text(ini.read_text().replace("force_metadata = False", "force_metadata = True"))
    story.cloud.openimds("restart", "dhcp-agent")
    vm1, test1 = story.id_of("server", "vm1"), story.id_of("network", "test1")
    ending = "json" if story.is_direct else "conf"
    until(lambda: story.cloud.proxy_files(ending) == [test1], "the network's listener is the only one")
    until(lambda: story.proxies() == story.proxy_of(test1), "the network's proxy is the only one")
    assert re.search(
        rf"169\.254\.169\.254:80\b.*{story.listener()}", story.cloud.inside(f"qdhcp-{test1}", "ss", "-lntp")
    )
    shown = story.cloud.inside(f"qdhcp-{test1}", "ip", "a")
    assert re.search(r"inet 169\.254\.169\.254/16 brd 169\.254\.255\.255 scope global tap", shown)
    own = re.search(r"inet (192\.168\.40\.\d+)/24 brd 192\.168\.40\.255 scope global tap", shown)
    assert own, shown
    story.type("openstack server reboot --wait vm1")
    story.wait_until_vm1_knows_itself()
    routes = story.cloud.inside(f"qvm-{vm1}", "ip", "route")
    assert f"169.254.169.254 via {own.group(1)} dev eth0" in routes


def test_two_projects_with_the_same_address_each_get_their_own(story: Story) -> None:
    """Goes on with metadata from the DHCP namespaces."""
    servers = {project: _tenant(story, project) for project in ("acme", "globex")}
    for project, other in (("acme", "globex"), ("globex", "acme")):
        until(partial(_has_run, story, project), f"{project}'s user data ran")
        documents = ("meta-data/hostname", "user-data", "meta-data/local-ipv4", "meta-data/public-keys/0/openssh-key")
        answers = "\n".join(
            story.cloud.inside(f"qvm-{servers[project]}", "curl", "-sf", f"{METADATA}/latest/{path}")
            for path in documents
        )
        for own in (f"{project}-vm", f"canary of {project}", "192.168.40.50", f" {project}"):
            assert own in answers
        assert other not in answers
        meta_data = story.cloud.inside(
            f"qvm-{servers[project]}", "curl", "-sf", f"{METADATA}/openstack/latest/meta_data.json"
        )
        assert servers[project] in meta_data
        assert servers[other] not in meta_data
    assert "No Server found" in story.cloud.refused(f"openstack {_as('globex')} server show acme-vm")


def test_a_deleted_server_leaves_nothing(story: Story) -> None:
    vm1 = story.id_of("server", "vm1")
    tap = "tap" + story.cloud.json("openstack port list --server vm1")[0]["ID"][:11]
    assert tap in run(["ip", "-br", "link"]).stdout
    story.type("openstack server delete --wait vm1")
    until(lambda: tap not in run(["ip", "-br", "link"]).stdout, f"{tap} is gone")
    until(lambda: f"qvm-{vm1}" not in run(["ip", "netns", "list"]).stdout, "its namespace is gone")
    until(lambda: not (story.cloud.state_dir / "instances" / vm1).exists(), "its files are gone")


def _as(project: str) -> str:
    return f"--os-username {project}-user --os-password {project}-pw --os-project-name {project}"


def _has_run(story: Story, project: str) -> bool:
    log = story.cloud.line(f"openstack {_as(project)} console log show {project}-vm")
    return f"canary of {project} on {project}-vm" in log


def _tenant(story: Story, project: str) -> str:
    (story.folder / f"{project}.sh").write_text(f'#!/bin/sh\necho "canary of {project} on $(hostname)"\n')
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", project, "-f", str(story.folder / project)]
    run(key)
    story.type(
        f"openstack project create {project}\n"
        f"openstack user create --project {project} --password {project}-pw {project}-user\n"
        f"openstack role add --project {project} --user {project}-user member\n"
        f"openstack {_as(project)} network create private\n"
        f"openstack {_as(project)} subnet create --network private --subnet-range 192.168.40.0/24 v4\n"
        f"openstack {_as(project)} keypair create --public-key {project}.pub key\n"
        f"openstack {_as(project)} server create --image guest --flavor m1.tiny --key-name key "
        f"--nic net-id=private,v4-fixed-ip=192.168.40.50 --user-data {project}.sh --wait {project}-vm"
    )
    return story.cloud.line(f"openstack {_as(project)} server show {project}-vm -f value -c id").strip()
