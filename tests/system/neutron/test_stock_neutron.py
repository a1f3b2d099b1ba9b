"""Each half of the metadata path by stock neutron: its HAProxy with our agent, and our HAProxy with its agent.

Stock HAProxy runs beside our listener in both modes, and our agent serves both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.system.cloud import run
from tests.system.neutron.conftest import STOCK, Stage
from tests.system.option_files import option, set_option
from tests.waiting import until

OWN = "http://169.254.169.254"
META_DATA = "/openstack/latest/meta_data.json"
LINK_LOCAL = "fe80::a9fe:a9fe"


@contextmanager
def stock_proxy(stage: Stage, kind: str, port: int, *v6: str) -> Iterator[Path]:
    """Runs stock neutron's HAProxy in the network's namespace with the configuration of neutron's driver."""
    state = stage.folder / f"stock-{kind}"
    state.mkdir(exist_ok=True)
    identifier = stage.network if kind == "network" else stage.router
    written = run(
        [str(stage.python), str(STOCK / "write_haproxy_config.py"), str(state),
         str(stage.cloud.state_dir / "metadata_proxy"), kind, identifier, "169.254.169.254", str(port), *v6],
    ).stdout.split()[-1]  # fmt: skip
    enter = ("ip", "netns", "exec", f"{stage.cloud.prefix}{stage.namespace}")
    with stage.running(*enter, "haproxy", "-db", "-f", written, log="stock-haproxy.log"):
        yield Path(written)


def instance_id(answer: str) -> str | None:
    """The instance id in a meta_data.json. None if the text is not such a document."""
    try:
        return str(json.loads(answer)["uuid"])
    except (ValueError, KeyError):
        return None


@pytest.mark.usefixtures("metadata_proxy")
@pytest.mark.parametrize(("kind", "port"), [("network", 8081), ("router", 8082)])
def test_stock_haproxy_works_with_our_agent(stage: Stage, kind: str, port: int) -> None:
    url = f"{OWN}:{port}"
    with stock_proxy(stage, kind, port) as config:
        assert "option forwardfor" in config.read_text(), "neutron's HAProxy appends to X-Forwarded-For"
        until(
            lambda: instance_id(stage.guest(f"{url}{META_DATA}")) == stage.server, "the instance receives its metadata"
        )
        assert instance_id(stage.guest(f"{url}{META_DATA}", server=stage.other)) == stage.other
        other_address = stage.guest(f"{url}/latest/meta-data/local-ipv4", server=stage.other)
        forged = (
            "-H", f"X-Forwarded-For: {other_address}", "-H", f"X-Instance-ID: {stage.other}",
            "-H", f"x_instance_id: {stage.other}", "-H", "X-Neutron-Router-ID: nowhere",
        )  # fmt: skip
        if kind == "network":
            assert instance_id(stage.guest(*forged, f"{url}{META_DATA}")) == stage.server
        assert stage.guest("-o", "/dev/null", "-w", "%{http_code}", f"{url}/no/such/thing") == "404"
        posted = stage.guest("-X", "POST", "-d", "", "-o", "/dev/null", "-w", "%{http_code}", url + META_DATA)
        assert posted == "405"
        assert instance_id(stage.guest(OWN + META_DATA)) == stage.server, "our listener serves at the same time"


@pytest.mark.usefixtures("metadata_proxy")
def test_stock_haproxy_works_with_our_agent_on_ipv6(stage: Stage) -> None:
    """The client has a link-local address. The agent finds its port by the MAC in the address or by the neighbour table."""
    cloud = stage.cloud
    device = next(
        link["ifname"]
        for link in json.loads(cloud.inside(stage.namespace, "ip", "-j", "link"))
        if link["ifname"].startswith("tap")
    )
    guest_device = next(
        link["ifname"]
        for link in json.loads(cloud.inside(f"qvm-{stage.server}", "ip", "-j", "link"))
        if link["ifname"] != "lo"
    )
    with stock_proxy(stage, "network", 8083, LINK_LOCAL, device):
        until(
            lambda: instance_id(stage.guest(f"http://[{LINK_LOCAL}%25{guest_device}]:8083{META_DATA}")) == stage.server,
            "the instance receives its metadata over IPv6",
        )


@pytest.mark.usefixtures("metadata_proxy")
@pytest.mark.parametrize("metadata_proxy", ["haproxy"], indirect=True)
def test_our_haproxy_works_with_stock_neutrons_agent(stage: Stage) -> None:
    cloud, etc = stage.cloud, stage.cloud.state_dir / "etc"
    socket = stage.folder / "stock_metadata_proxy"
    file = stage.folder / "stock_metadata_agent.ini"
    file.write_text(
        f"""\
[DEFAULT]
transport_url = fake:/
state_path = {stage.folder}/stock-agent
metadata_proxy_socket = {socket}
nova_metadata_host = 127.0.0.1
nova_metadata_port = {cloud.metadata_port}
metadata_proxy_shared_secret = {option(etc / "metadata_agent.ini", "metadata_proxy_shared_secret")}
metadata_workers = 2
[agent]
report_interval = 0
"""
    )
    service = etc / "neutron.conf"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON"))} | {
        "OS_AUTH_URL": f"http://127.0.0.1:{cloud.control_port}/v3",
        "OS_USERNAME": option(service, "username"),
        "OS_PASSWORD": option(service, "password"),
        "OS_PROJECT_NAME": "service",
    }
    log = stage.folder / "stock-agent.log"
    argv = (str(stage.python), str(STOCK / "metadata_agent.py"), "--config-file", str(file))
    with stage.running(*argv, log=log.name, env=env):
        until(socket.exists, f"stock neutron's agent listens:\n{log.read_text()}")
        ours = socket_of_proxies(stage)
        set_option(etc / "dhcp_agent.ini", "metadata_proxy_socket", str(socket))
        cloud.openimds("restart", "dhcp-agent")
        try:
            until(lambda: socket_of_proxies(stage) == str(socket), "our proxy forwards to stock neutron's agent")
            until(
                lambda: instance_id(stage.guest(OWN + META_DATA)) == stage.server,
                f"the instance receives its metadata from stock neutron's agent:\n{log.read_text()}",
            )
            assert instance_id(stage.guest(OWN + META_DATA, server=stage.other)) == stage.other
            forged = ("-H", f"X-Instance-ID: {stage.other}", "-H", f"X-Forwarded-For: {stage.other}")
            assert instance_id(stage.guest(*forged, OWN + META_DATA)) == stage.server
            agents = [line for line in cloud.log("metadata-agent").splitlines() if "request answered" in line]
            before = len(agents)
            assert stage.guest(f"{OWN}/latest/meta-data/instance-id").startswith("i-")
            assert token_status(stage) == "404", "SDKs continue without a token, as with nova"
            after = [line for line in cloud.log("metadata-agent").splitlines() if "request answered" in line]
            assert len(after) == before, "the request went to stock neutron's agent"
        finally:
            set_option(etc / "dhcp_agent.ini", "metadata_proxy_socket", ours)
            cloud.openimds("restart", "dhcp-agent")
            until(lambda: socket_of_proxies(stage) == ours, "our proxy forwards to our agent again")
    until(lambda: token_status(stage) == "200", "our agent forwards the headers of tokens")


def token_status(stage: Stage) -> str:
    ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60"
    return stage.guest("-X", "PUT", "-H", ttl, "-o", "/dev/null", "-w", "%{http_code}", f"{OWN}/latest/api/token")


def socket_of_proxies(stage: Stage) -> str:
    """The socket that our HAProxy of the network forwards to."""
    config = stage.cloud.state_dir / "ns-metadata-proxy" / f"{stage.network}.conf"
    line = next(line for line in config.read_text().splitlines() if line.strip().startswith("server "))
    return line.split("unix@", 1)[1].split()[0]
