"""The story of the two articles that this project grew from, chapter by chapter."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from prettytable import PrettyTable

from demo.stage import Stage, StoryBrokenError, quoted

TRIES = 20
METADATA = "http://169.254.169.254"
SUBNET = "192.168.40.0/24"


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the story plays."""

    stage: Stage
    folder: Path
    """The story's own files: keys, user data, the tenants' clouds.yaml."""
    state_dir: Path
    prefix: str
    """Before every namespace's name."""

    def qvm(self, server_id: str) -> str:
        return f"{self.prefix}qvm-{server_id}"

    def qdhcp(self, network_id: str) -> str:
        return f"{self.prefix}qdhcp-{network_id}"

    def qrouter(self, router_id: str) -> str:
        return f"{self.prefix}qrouter-{router_id}"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of the story, and what it should be told."""

    name: str
    id: str
    address: str
    key: str
    says: str
    """What its user data prints."""


def id_of(scene: Scene, kind: str, name: str, cloud: str | None = None) -> str:
    return scene.stage.ask(f"openstack {kind} show -f value -c id {name}", cloud=cloud)


def console(scene: Scene, name: str, cloud: str | None = None) -> str:
    return scene.stage.ask(f"openstack console log show {name}", cloud=cloud)


def make_key(scene: Scene, name: str) -> str:
    path = scene.folder / name
    scene.stage.ask(quoted("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)))
    return path.with_suffix(".pub").read_text().strip()


def make_user_data(scene: Scene, name: str, says: str) -> str:
    """A script that proves it ran as the instance: it prints a line of its own and the host name."""
    (scene.folder / name).write_text(f'#!/bin/sh\necho "{says}, on $(hostname)"\n')
    return says


def without_router(scene: Scene) -> Instance:
    """A network with DHCP but no router: nobody listens on 169.254.169.254, and the instance tries in vain."""
    stage = scene.stage
    stage.chapter("1. A network without a router: 20 failed tries")
    key = make_key(scene, "id")
    says = make_user_data(scene, "boot.sh", "hello from the user data")
    stage.run("openstack network create -f value -c id -c name test1")
    stage.run(f"openstack subnet create -f value -c cidr --network test1 --subnet-range {SUBNET} test1-v4")
    stage.run("openstack keypair create --public-key id.pub mykey -f value -c fingerprint")
    stage.run(
        "openstack server create --image guest --flavor m1.tiny --network test1 --key-name mykey "
        "--user-data boot.sh --property role=web --wait vm1 -f value -c id -c status"
    )
    stage.say("The instance has its address from DHCP; now it asks for its metadata, once a second, twenty times …")
    stage.wait_for("the twentieth try", lambda: f"tried {TRIES}" in console(scene, "vm1"), timeout_seconds=60)
    log = stage.run("openstack console log show vm1", show=_tries_only)
    stage.check(f"{TRIES} tries failed", len(re.findall(r"failed \d+/20", log)) == TRIES)
    processes = stage.run("ps aux | grep '[h]aproxy -f' || echo 'no haproxy process'", show=_of_state_dir(scene))
    stage.check("no haproxy runs: there is no router that would need one", not _proxies(scene, processes))
    server_id = id_of(scene, "server", "vm1")
    address = stage.ask("openstack port list --server vm1 -f value -c 'Fixed IP Addresses'")
    return Instance("vm1", server_id, _first_ipv4(address), key, says)


def with_router(scene: Scene, vm1: Instance) -> None:
    """The router brings a proxy into its namespace and a REDIRECT to it: the same instance now learns who it is."""
    stage = scene.stage
    stage.chapter("2. A router: the request takes the default route and is redirected to the proxy")
    router_id = stage.run("openstack router create -f value -c id r1").strip()
    stage.run("openstack router add subnet r1 test1-v4")
    qrouter = scene.qrouter(router_id)
    stage.wait_for("the proxy of the router", lambda: _listens(scene, qrouter, 9697))
    processes = stage.run("ps aux | grep '[h]aproxy -f'", show=_of_state_dir(scene))
    stage.check("one haproxy runs now, the router's", len(_proxies(scene, processes)) == 1 and router_id in processes)
    stage.run("openstack server reboot --wait vm1")
    _see_success(scene, vm1)
    routes = stage.run(f"ip netns exec {scene.qvm(vm1.id)} ip route")
    stage.check("the way to 169.254.169.254 is the default route", "default via 192.168.40.1 dev eth0" in routes)
    rules = stage.run(f"ip netns exec {qrouter} iptables -t nat -L PREROUTING -n -v")
    stage.check("the REDIRECT to 9697 has counted packets", _redirected_packets(rules) > 0)
    sockets = stage.run(f"ip netns exec {qrouter} ss -ltnp")
    stage.check("haproxy listens on 9697 in the router's namespace", ":9697" in sockets and "haproxy" in sockets)
    stage.run("openstack router remove subnet r1 test1-v4")
    stage.run("openstack router delete r1")


def through_dhcp(scene: Scene, vm1: Instance) -> None:
    """No router, `force_metadata`: the DHCP namespace itself has the address, and tells the way by option 121."""
    stage = scene.stage
    stage.chapter("3. force_metadata: the DHCP agent serves 169.254.169.254, no router needed")
    ini = scene.state_dir / "etc" / "dhcp_agent.ini"
    stage.run(f"sed -i '/^force_metadata/d; s/^\\[DEFAULT\\]$/&\\nforce_metadata = True/' {quoted(str(ini))}")
    stage.run(f"grep -n force_metadata {quoted(str(ini))}")
    stage.run(f"openimds restart dhcp-agent --state-dir {quoted(str(scene.state_dir))}")
    network_id = id_of(scene, "network", "test1")
    qdhcp = scene.qdhcp(network_id)
    stage.wait_for("the proxy of the network", lambda: _listens(scene, qdhcp, 80))
    processes = stage.run("ps aux | grep '[h]aproxy -f'", show=_of_state_dir(scene))
    stage.check("one haproxy runs, the network's", len(_proxies(scene, processes)) == 1 and network_id in processes)
    addresses = stage.run(f"ip netns exec {qdhcp} ip a")
    stage.check("169.254.169.254 is on the DHCP port", "inet 169.254.169.254/" in addresses)
    stage.run("openstack server reboot --wait vm1")
    _see_success(scene, vm1)
    routes = stage.run(f"ip netns exec {scene.qvm(vm1.id)} ip route")
    dhcp_ip = _dhcp_address(addresses)
    stage.check(
        f"option 121 gave the instance a route by the DHCP port ({dhcp_ip})",
        f"169.254.169.254 via {dhcp_ip} dev eth0" in routes,
    )


def two_tenants(scene: Scene) -> dict[str, Instance]:
    """Two projects use the same range and the same address: only the namespace tells them apart."""
    stage = scene.stage
    stage.chapter("4. Two projects, the same range, the same address")
    tenants = {"acme": "alice", "globex": "bob"}
    for project, user in tenants.items():
        stage.run(f"openstack project create -f value -c name {project}")
        stage.run(f"openstack user create -f value -c name --project {project} --password {user}-pw {user}")
        stage.run(f"openstack role add --project {project} --user {user} member")
    _write_tenants_clouds(scene, tenants)
    asides = {project: replace(scene, stage=stage.aside()) for project in tenants}
    with ThreadPoolExecutor(len(tenants)) as pool:
        made = pool.map(lambda project: _tenant_instance(asides[project], project), tenants)
    instances = dict(zip(tenants, made, strict=True))
    for aside in asides.values():
        aside.stage.tell()
    for project, instance in instances.items():
        stage.say(f"{project}:")
        _see_success(scene, instance, cloud=project)
    addresses = {instance.address for instance in instances.values()}
    stage.check("both instances have the same address", addresses == {"192.168.40.50"})
    return instances


def closing_table(scene: Scene, instances: dict[str, Instance]) -> None:
    """Who asked, and who was answered, asked once more from inside each instance."""
    scene.stage.chapter("5. Who asked, and who was answered")
    table = PrettyTable(["project", "asked from", "address", "answered: host name", "instance id", "key", "user data"])
    table.align = "l"
    for project, instance in instances.items():
        namespace = scene.qvm(instance.id)
        answers = {
            path: scene.stage.ask(f"ip netns exec {namespace} curl -sf -m 5 {METADATA}/{path}")
            for path in (
                "latest/meta-data/hostname",
                "latest/meta-data/local-ipv4",
                "latest/meta-data/instance-id",
                "latest/meta-data/public-keys/0/openssh-key",
                "latest/user-data",
                "openstack/latest/meta_data.json",
            )
        }
        hostname, address, ec2_id, key, user_data, document = answers.values()
        table.add_row([project, namespace, address, hostname, ec2_id, key.split()[-1], _first_echo(user_data)])
        scene.stage.check(
            f"{project}: {instance.name} got its own host name, address, id, key and user data",
            hostname.startswith(instance.name)
            and address == instance.address
            and key == instance.key
            and instance.says in user_data
            and instance.id in document,
        )
    print(table)


def _tenant_instance(scene: Scene, project: str) -> Instance:
    stage, name = scene.stage, f"{project}-vm"
    key = make_key(scene, f"{project}-key")
    says = make_user_data(scene, f"{project}.sh", f"user data of {project}")
    stage.run("openstack network create -f value -c id private", cloud=project)
    stage.run(f"openstack subnet create -f value -c cidr --network private --subnet-range {SUBNET} v4", cloud=project)
    stage.run(f"openstack keypair create --public-key {project}-key.pub key -f value -c fingerprint", cloud=project)
    server_id = stage.run(
        f"openstack server create --image guest --flavor m1.tiny --nic net-id=private,v4-fixed-ip=192.168.40.50 "
        f"--key-name key --user-data {project}.sh --wait {name} -f value -c id",
        cloud=project,
    ).strip()
    addresses = stage.ask(f"openstack port list --server {name} -f value -c 'Fixed IP Addresses'", cloud=project)
    return Instance(name, server_id, _first_ipv4(addresses), key, says)


def _write_tenants_clouds(scene: Scene, tenants: dict[str, str]) -> None:
    """clouds.yaml with a cloud for each project beside the administrator's own."""
    text = (scene.state_dir / "etc" / "clouds.yaml").read_text()
    auth_url = re.search(r"auth_url: (\S+)", text)
    if auth_url is None:
        raise StoryBrokenError("clouds.yaml has no auth_url")
    for project, user in tenants.items():
        text += (
            f"  {project}:\n    auth:\n      auth_url: {auth_url.group(1)}\n      username: {user}\n"
            f"      password: {user}-pw\n      project_name: {project}\n      user_domain_name: Default\n"
            f"      project_domain_name: Default\n    region_name: RegionOne\n    identity_api_version: 3\n"
        )
    (scene.folder / "clouds.yaml").write_text(text)


def _see_success(scene: Scene, instance: Instance, cloud: str | None = None) -> None:
    stage = scene.stage
    stage.wait_for(f"the user data of {instance.name}", lambda: instance.says in console(scene, instance.name, cloud))
    log = stage.run(f"openstack console log show {instance.name}", show=_last_lines, cloud=cloud)
    stage.check(
        f"{instance.name} learnt its host name, its key, and ran its user data",
        f"{instance.says}, on {instance.name}" in log and instance.key.split()[1] in log,
    )


def _tries_only(text: str) -> str:
    lines = [line for line in text.splitlines() if "checking http" in line or "failed" in line]
    return "\n".join([*lines[:4], "…", *lines[-3:]])


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-16:])


def _of_state_dir(scene: Scene) -> Callable[[str], str]:
    """Shows only this story's haproxies: another system may run on this machine."""
    return lambda text: "\n".join(_proxies(scene, text)) or "(none of ours)"


def _proxies(scene: Scene, processes: str) -> list[str]:
    return [line for line in processes.splitlines() if f"haproxy -f {scene.state_dir}/" in line]


def _listens(scene: Scene, namespace: str, port: int) -> bool:
    try:
        return f":{port} " in scene.stage.ask(f"ip netns exec {namespace} ss -ltn")
    except StoryBrokenError:
        return False


def _redirected_packets(rules: str) -> int:
    return sum(int(line.split()[0]) for line in rules.splitlines() if "redir ports 9697" in line)


def _dhcp_address(addresses: str) -> str:
    found = re.search(r"inet (192\.168\.40\.\d+)/24", addresses)
    return found.group(1) if found else "no address"


def _first_ipv4(text: str) -> str:
    found = re.search(r"\d+\.\d+\.\d+\.\d+", text)
    return found.group(0) if found else "no address"


def _first_echo(user_data: str) -> str:
    return next((line for line in user_data.splitlines() if line.startswith("echo")), "(none)")
