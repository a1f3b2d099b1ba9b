"""A real OpenStack with two projects, whose networks have the same addresses, and instances behind a router."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openstack as sdk
import pytest
from tests import janitor
from tests.system.cloud import run
from tests.system.openstack.counting_proxy import CountingProxy, counting_proxy
from tests.system.openstack.services import ADMIN_PASSWORD, SECRET, OpenStack, missing_packages, openstack
from tests.waiting import HANG_SECONDS, INSTALL_SECONDS, until

REPOSITORY = Path(__file__).parents[3]
GUESTS = 100
AGENT_PASSWORD = "agent-password"


@dataclass(frozen=True, slots=True)
class Guest:
    """An instance, and the headers that a namespace proxy adds to its requests."""

    id: str
    port: str
    subnet: str
    address: str
    scope: str
    """`X-Neutron-Router-ID: …` or `X-Neutron-Network-ID: …`"""
    hostname: str


@dataclass
class RealCloud:
    services: OpenStack
    neutron: CountingProxy
    connection: Any
    """openstacksdk's connection of the administrator."""
    guests: list[Guest]
    """The instances behind one router."""
    isolated: list[Guest]
    """One instance of each project on a network without a router, both with the same address."""

    def move(self, guest: Guest, address: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fixed_ips = [{"subnet_id": guest.subnet, "ip_address": address}]
            self.connection.network.update_port(guest.port, fixed_ips=fixed_ips)


@dataclass
class Agent:
    """A metadata agent of openimds in front of the real Nova."""

    folder: Path
    cloud: RealCloud
    process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "metadata_agent.ini"

    def configure(self, password: str = AGENT_PASSWORD, *lines: str) -> None:
        services = self.cloud.services
        self.file.write_text(
            f"""\
[DEFAULT]
state_path = {self.folder}
host = peerhost
log_format = json
nova_metadata_host = 127.0.0.1
nova_metadata_port = {services.ports["nova"]}
metadata_proxy_shared_secret = {SECRET}
metadata_proxy_socket = {self.folder / "metadata_proxy"}
[keystone_authtoken]
auth_url = {services.auth_url}
username = openimds
password = {password}
project_name = service
region_name = RegionOne
"""
            + "".join(f"{line}\n" for line in lines)
        )

    def start(self) -> None:
        command = [sys.executable, "-m", "openimds", "metadata-agent", "--config-file", str(self.file)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: self.events("ready"), lambda: self.log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(HANG_SECONDS) == 0, self.log

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if str(line["event"]).startswith(event)]

    def get(self, guest: Guest, address: str | None = None) -> tuple[str, str]:
        """The head of a response to an instance, and its body."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_SECONDS)
            client.connect(str(self.folder / "metadata_proxy"))
            client.sendall(_request(guest, address))
            response = b"".join(iter(lambda: client.recv(65536), b""))
        head, _, body = response.partition(b"\r\n\r\n")
        return head.decode(), body.decode()

    def hostname(self, guest: Guest, address: str | None = None) -> str | int:
        """The host name that an instance receives, or the status of another response."""
        head, body = self.get(guest, address)
        status = int(head.split()[1])
        return body.partition(".")[0] if status == 200 else status

    def burst(self, guests: Sequence[Guest]) -> list[int]:
        """The statuses of simultaneous requests of all guests."""

        async def status(guest: Guest) -> int:
            reader, writer = await asyncio.open_unix_connection(self.folder / "metadata_proxy")
            writer.write(_request(guest, None))
            response = await reader.read()
            writer.close()
            return int(response.split()[1])

        async def all_statuses() -> list[int]:
            return await asyncio.gather(*map(status, guests))

        return asyncio.run(all_statuses())


def _request(guest: Guest, address: str | None) -> bytes:
    return (
        f"GET /latest/meta-data/local-hostname HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{guest.scope}\r\n"
        f"X-Forwarded-For: {address or guest.address}\r\n\r\n"
    ).encode()


@pytest.fixture(scope="session")
def real_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCloud]:
    """Starts in about a minute, after an installation of some minutes on a machine without it."""
    done = run([str(REPOSITORY / "scripts" / "make-openstack")], timeout_seconds=INSTALL_SECONDS, check=False)
    if done.returncode != 0 or missing_packages():
        pytest.skip(f"OpenStack cannot be installed: {missing_packages() or done.stderr.splitlines()[-1]}")
    folder = tmp_path_factory.mktemp("openstack")
    folder.chmod(0o755)
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(0o755)  # MariaDB and RabbitMQ do not run as root
    janitor.register_host(folder, "none-")  # it ends all processes if this one is killed
    try:
        with (
            openstack(folder, Path(done.stdout.strip())) as services,
            counting_proxy(services.ports["neutron"]) as neutron,
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # openstacksdk's own deprecations
                cloud = _populated(services, neutron)
            yield cloud
    finally:
        janitor.unregister(folder)


@pytest.fixture
def agent(real_cloud: RealCloud, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path, real_cloud)
    made.configure()
    try:
        yield made
    finally:
        real_cloud.neutron.delay_seconds = 0.0
        real_cloud.neutron.open.set()
        made.stop()


def _populated(services: OpenStack, neutron: CountingProxy) -> RealCloud:
    connection = _connect(services, "admin", ADMIN_PASSWORD, "admin")
    identity = connection.identity
    service = identity.create_service(name="neutron", type="network")
    for interface in ("public", "internal", "admin"):
        identity.create_endpoint(service_id=service.id, interface=interface, url=neutron.url, region_id="RegionOne")
    project = identity.create_project(name="service", domain_id="default")
    roles = {role.name: role for role in identity.roles()}
    roles.setdefault("service", None)
    roles["service"] = roles["service"] or identity.create_role(name="service")
    passwords = {"neutron": "NEUTRON_PASS", "nova": "NOVA_PASS", "openimds": AGENT_PASSWORD}
    for name, password in passwords.items():
        user = identity.create_user(name=name, password=password, domain_id="default")
        identity.assign_project_role_to_user(project, user, roles["service"])
        if name != "openimds":  # `service` is the least privilege of the agent
            identity.assign_project_role_to_user(project, user, roles["admin"])
    connection = _connect(services, "admin", ADMIN_PASSWORD, "admin")
    guests: list[Guest] = []
    isolated: list[Guest] = []
    rows: list[dict[str, Any]] = []
    for name in ("demo", "acme"):
        owner = identity.create_project(name=name, domain_id="default").id
        connection.network.update_quota(owner, ports=-1)
        for kind, count in (("routed", GUESTS if name == "demo" else 1), ("isolated", 1)):
            network = connection.network.create_network(name=f"{name}-{kind}", project_id=owner)
            subnet = connection.network.create_subnet(
                network_id=network.id, project_id=owner, ip_version=4, cidr="10.20.0.0/20"
            )
            scope = f"X-Neutron-Network-ID: {network.id}"
            if kind == "routed":
                router = connection.network.create_router(name=name, project_id=owner)
                connection.network.add_interface_to_router(router, subnet_id=subnet.id)
                scope = f"X-Neutron-Router-ID: {router.id}"
            for number in range(count):
                made = _guest(connection, owner, network, subnet, number)
                guest = Guest(scope=scope, hostname=f"{name}-{kind}-{number}", subnet=subnet.id, **made)
                (guests if kind == "routed" else isolated).append(guest)
                rows.append({**made, "hostname": guest.hostname, "project_id": owner, "network": network.id})
    _write_instances(services, rows)
    neutron.calls.clear()
    return RealCloud(services, neutron, connection, guests, isolated)


def _guest(connection: Any, owner: str, network: Any, subnet: Any, number: int) -> dict[str, Any]:
    instance, address = str(uuid.uuid4()), f"10.20.1.{number + 1}"
    port = connection.network.create_port(
        network_id=network.id, project_id=owner, device_id=instance, device_owner="compute:nova",
        fixed_ips=[{"subnet_id": subnet.id, "ip_address": address}],
    )  # fmt: skip
    return {"id": instance, "port": port.id, "address": address}


def _write_instances(services: OpenStack, rows: list[dict[str, Any]]) -> None:
    file = services.folder / "instances.json"
    file.write_text(json.dumps([{"mac": "fa:16:3e:00:00:01", **row} for row in rows]))
    script = str(Path(__file__).with_name("nova_instances.py"))
    services.run(services.program("python"), script, str(services.folder / "etc" / "nova.conf"), str(file), log="rows")


def _connect(services: OpenStack, user: str, password: str, project: str) -> Any:
    auth = {
        "auth_url": services.auth_url, "username": user, "password": password, "project_name": project,
        "user_domain_name": "Default", "project_domain_name": "Default",
    }  # fmt: skip
    return sdk.connect(auth=auth, region_name="RegionOne", interface="public", load_yaml_config=False)


@contextmanager
def hanging(neutron: CountingProxy) -> Iterator[None]:
    """Neutron does not respond to the agent during the block."""
    neutron.open.clear()
    try:
        yield
    finally:
        neutron.open.set()
