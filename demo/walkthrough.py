"""The steps of the demo: no router, a router, force_metadata, and two projects with the same addresses."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from prettytable import PrettyTable

from demo.terminal import DemoError, Terminal, quoted

TRIES = 20
METADATA = "http://169.254.169.254"
SUBNET = "192.168.40.0/24"


@dataclass(frozen=True, slots=True)
class Setup:
    """The terminal, the folders and the namespace prefix of one demo."""

    terminal: Terminal
    folder: Path
    """Keys, user data and clouds.yaml."""
    state_dir: Path
    prefix: str
    """The prefix of the names of namespaces."""

    def qvm(self, server_id: str) -> str:
        return f"{self.prefix}qvm-{server_id}"

    def qdhcp(self, network_id: str) -> str:
        return f"{self.prefix}qdhcp-{network_id}"

    def qrouter(self, router_id: str) -> str:
        return f"{self.prefix}qrouter-{router_id}"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of the demo with the metadata that it must receive."""

    name: str
    id: str
    address: str
    key: str
    greeting: str
    """The line that its user data prints."""


def id_of(setup: Setup, kind: str, name: str, cloud: str | None = None) -> str:
    return setup.terminal.output(f"openstack {kind} show -f value -c id {name}", cloud=cloud)


def console(setup: Setup, name: str, cloud: str | None = None) -> str:
    return setup.terminal.output(f"openstack console log show {name}", cloud=cloud)


def make_key(setup: Setup, name: str) -> str:
    path = setup.folder / name
    setup.terminal.output(quoted("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)))
    return path.with_suffix(".pub").read_text().strip()


def make_user_data(setup: Setup, name: str, greeting: str) -> str:
    """Writes a user data script that prints `greeting` and the host name. Returns `greeting`."""
    (setup.folder / name).write_text(f'#!/bin/sh\necho "{greeting}, on $(hostname)"\n')
    return greeting


def without_router(setup: Setup) -> Instance:
    """A network with DHCP and without a router: 169.254.169.254 has no listener, and the instance fails."""
    terminal = setup.terminal
    terminal.heading("1. A network without a router: 20 failed tries")
    key = make_key(setup, "id")
    greeting = make_user_data(setup, "boot.sh", "hello from the user data")
    terminal.run("openstack network create -f value -c id -c name test1")
    terminal.run(f"openstack subnet create -f value -c cidr --network test1 --subnet-range {SUBNET} test1-v4")
    terminal.run("openstack keypair create --public-key id.pub mykey -f value -c fingerprint")
    terminal.run(
        "openstack server create --image guest --flavor m1.tiny --network test1 --key-name mykey "
        "--user-data boot.sh --property role=web --wait vm1 -f value -c id -c status"
    )
    terminal.comment("The instance has an address from DHCP. It requests its metadata 20 times, once a second …")
    terminal.wait_for("the twentieth try", lambda: f"tried {TRIES}" in console(setup, "vm1"), timeout_seconds=60)
    log = terminal.run("openstack console log show vm1", show=_tries_only)
    terminal.check(f"{TRIES} tries failed", len(re.findall(r"failed \d+/20", log)) == TRIES)
    processes = terminal.run("ps aux | grep '[h]aproxy -f' || echo 'no haproxy process'", show=_of_state_dir(setup))
    terminal.check("no haproxy runs, because there is no router", not _proxies(setup, processes))
    server_id = id_of(setup, "server", "vm1")
    address = terminal.output("openstack port list --server vm1 -f value -c 'Fixed IP Addresses'")
    return Instance("vm1", server_id, _first_ipv4(address), key, greeting)


def with_router(setup: Setup, vm1: Instance) -> None:
    """A router has a proxy in its namespace and a REDIRECT rule to it: the same instance receives its metadata."""
    terminal = setup.terminal
    terminal.heading("2. A router: the request takes the default route and is redirected to the proxy")
    router_id = terminal.run("openstack router create -f value -c id r1").strip()
    terminal.run("openstack router add subnet r1 test1-v4")
    qrouter = setup.qrouter(router_id)
    terminal.wait_for("the proxy of the router", lambda: _listens(setup, qrouter, 9697))
    processes = terminal.run("ps aux | grep '[h]aproxy -f'", show=_of_state_dir(setup))
    terminal.check(
        "one haproxy runs, in the router's namespace", len(_proxies(setup, processes)) == 1 and router_id in processes
    )
    terminal.run("openstack server reboot --wait vm1")
    _check_metadata(setup, vm1)
    routes = terminal.run(f"ip netns exec {setup.qvm(vm1.id)} ip route")
    terminal.check("the route to 169.254.169.254 is the default route", "default via 192.168.40.1 dev eth0" in routes)
    rules = terminal.run(f"ip netns exec {qrouter} iptables -t nat -L PREROUTING -n -v")
    terminal.check("the REDIRECT to 9697 has counted packets", _redirected_packets(rules) > 0)
    sockets = terminal.run(f"ip netns exec {qrouter} ss -ltnp")
    terminal.check("haproxy listens on 9697 in the router's namespace", ":9697" in sockets and "haproxy" in sockets)
    terminal.run("openstack router remove subnet r1 test1-v4")
    terminal.run("openstack router delete r1")


def through_dhcp(setup: Setup, vm1: Instance) -> None:
    """`force_metadata`, no router: the DHCP namespace has the address, and option 121 has the route to it."""
    terminal = setup.terminal
    terminal.heading("3. force_metadata: the DHCP agent serves 169.254.169.254, no router needed")
    ini = setup.state_dir / "etc" / "dhcp_agent.ini"
    terminal.run(f"sed -i '/^force_metadata/d; s/^\\[DEFAULT\\]$/&\\nforce_metadata = True/' {quoted(str(ini))}")
    terminal.run(f"grep -n force_metadata {quoted(str(ini))}")
    terminal.run(f"openimds restart dhcp-agent --state-dir {quoted(str(setup.state_dir))}")
    network_id = id_of(setup, "network", "test1")
    qdhcp = setup.qdhcp(network_id)
    terminal.wait_for("the proxy of the network", lambda: _listens(setup, qdhcp, 80))
    processes = terminal.run("ps aux | grep '[h]aproxy -f'", show=_of_state_dir(setup))
    terminal.check(
        "one haproxy runs, in the network's namespace", len(_proxies(setup, processes)) == 1 and network_id in processes
    )
    addresses = terminal.run(f"ip netns exec {qdhcp} ip a")
    terminal.check("169.254.169.254 is on the DHCP port", "inet 169.254.169.254/" in addresses)
    terminal.run("openstack server reboot --wait vm1")
    _check_metadata(setup, vm1)
    routes = terminal.run(f"ip netns exec {setup.qvm(vm1.id)} ip route")
    dhcp_ip = _dhcp_address(addresses)
    terminal.check(
        f"option 121 gave the instance a route through the DHCP port ({dhcp_ip})",
        f"169.254.169.254 via {dhcp_ip} dev eth0" in routes,
    )


def overlapping_projects(setup: Setup) -> dict[str, Instance]:
    """Two projects have the same range and the same address. Only the namespace distinguishes them."""
    terminal = setup.terminal
    terminal.heading("4. Two projects, the same range, the same address")
    tenants = {"acme": "alice", "globex": "bob"}
    for project, user in tenants.items():
        terminal.run(f"openstack project create -f value -c name {project}")
        terminal.run(f"openstack user create -f value -c name --project {project} --password {user}-pw {user}")
        terminal.run(f"openstack role add --project {project} --user {user} member")
    _write_tenants_clouds(setup, tenants)
    setups = {project: replace(setup, terminal=terminal.buffered()) for project in tenants}
    with ThreadPoolExecutor(len(tenants)) as pool:
        made = pool.map(lambda project: _tenant_instance(setups[project], project), tenants)
    instances = dict(zip(tenants, made, strict=True))
    for each in setups.values():
        each.terminal.flush()
    for project, instance in instances.items():
        terminal.comment(f"{project}:")
        _check_metadata(setup, instance, cloud=project)
    addresses = {instance.address for instance in instances.values()}
    terminal.check("both instances have the same address", addresses == {"192.168.40.50"})
    return instances


def summary_table(setup: Setup, instances: dict[str, Instance]) -> None:
    """Requests metadata once more from inside each instance, and prints the responses as a table."""
    setup.terminal.heading("5. Each instance and its metadata")
    table = PrettyTable(["project", "requested in", "address", "host name", "instance id", "key", "user data"])
    table.align = "l"
    for project, instance in instances.items():
        namespace = setup.qvm(instance.id)
        answers = {
            path: setup.terminal.output(f"ip netns exec {namespace} curl -sf -m 5 {METADATA}/{path}")
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
        setup.terminal.check(
            f"{project}: {instance.name} received its own host name, address, id, key and user data",
            hostname.startswith(instance.name)
            and address == instance.address
            and key == instance.key
            and instance.greeting in user_data
            and instance.id in document,
        )
    print(table)


def _tenant_instance(setup: Setup, project: str) -> Instance:
    terminal, name = setup.terminal, f"{project}-vm"
    key = make_key(setup, f"{project}-key")
    greeting = make_user_data(setup, f"{project}.sh", f"user data of {project}")
    terminal.run("openstack network create -f value -c id private", cloud=project)
    terminal.run(
        f"openstack subnet create -f value -c cidr --network private --subnet-range {SUBNET} v4", cloud=project
    )
    terminal.run(f"openstack keypair create --public-key {project}-key.pub key -f value -c fingerprint", cloud=project)
    server_id = terminal.run(
        f"openstack server create --image guest --flavor m1.tiny --nic net-id=private,v4-fixed-ip=192.168.40.50 "
        f"--key-name key --user-data {project}.sh --wait {name} -f value -c id",
        cloud=project,
    ).strip()
    addresses = terminal.output(f"openstack port list --server {name} -f value -c 'Fixed IP Addresses'", cloud=project)
    return Instance(name, server_id, _first_ipv4(addresses), key, greeting)


def _write_tenants_clouds(setup: Setup, tenants: dict[str, str]) -> None:
    """Writes clouds.yaml with a cloud for each project and for the administrator."""
    text = (setup.state_dir / "etc" / "clouds.yaml").read_text()
    auth_url = re.search(r"auth_url: (\S+)", text)
    if auth_url is None:
        raise DemoError("clouds.yaml has no auth_url")
    for project, user in tenants.items():
        text += (
            f"  {project}:\n    auth:\n      auth_url: {auth_url.group(1)}\n      username: {user}\n"
            f"      password: {user}-pw\n      project_name: {project}\n      user_domain_name: Default\n"
            f"      project_domain_name: Default\n    region_name: RegionOne\n    identity_api_version: 3\n"
        )
    (setup.folder / "clouds.yaml").write_text(text)


def _check_metadata(setup: Setup, instance: Instance, cloud: str | None = None) -> None:
    terminal = setup.terminal
    terminal.wait_for(
        f"the user data of {instance.name}", lambda: instance.greeting in console(setup, instance.name, cloud)
    )
    log = terminal.run(f"openstack console log show {instance.name}", show=_last_lines, cloud=cloud)
    terminal.check(
        f"{instance.name} received its host name and key, and ran its user data",
        f"{instance.greeting}, on {instance.name}" in log and instance.key.split()[1] in log,
    )


def _tries_only(text: str) -> str:
    lines = [line for line in text.splitlines() if "checking http" in line or "failed" in line]
    return "\n".join([*lines[:4], "…", *lines[-3:]])


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-16:])


def _of_state_dir(setup: Setup) -> Callable[[str], str]:
    """Selects the haproxies of this demo, because another system may run on this machine."""
    return lambda text: "\n".join(_proxies(setup, text)) or "(none)"


def _proxies(setup: Setup, processes: str) -> list[str]:
    return [line for line in processes.splitlines() if f"haproxy -f {setup.state_dir}/" in line]


def _listens(setup: Setup, namespace: str, port: int) -> bool:
    try:
        return f":{port} " in setup.terminal.output(f"ip netns exec {namespace} ss -ltn")
    except DemoError:
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
