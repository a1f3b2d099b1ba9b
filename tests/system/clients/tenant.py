"""The expected metadata of instances, from the control API."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.api_client import ApiClient, Network
from tests.system.clients.debian_guest import Nic
from tests.system.cloud import Cloud, run
from tests.waiting import until

RANGE = "10.77.0.0/24"
EXTERNAL = "m1.external"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """The expected values of a server's metadata."""

    id: str
    name: str
    address: str
    nic: Nic
    zone: str
    flavor: str
    public_key: str
    user_data: str


class Tenant:
    """A project with a key pair, a network and a router that serves metadata."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.key = folder / "key"
        """An RSA key: all clients support it, and it can encrypt passwords."""
        run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "owner", "-f", str(self.key)])
        self._api = ApiClient(cloud)
        self.network: Network = self._api.network("lan", RANGE)
        self._api.router("edge", self.network)
        self._api.external_flavor(EXTERNAL)
        self._api.create("compute", "/os-keypairs", keypair={"name": "mykey", "public_key": self.public_key})

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def create(self, name: str, flavor: str, user_data: str, properties: dict[str, str] | None = None) -> ServerRecord:
        """Creates a server and waits until its port exists. The server may still be in BUILD."""
        server_id = self._api.server(
            name,
            self.network,
            flavor=flavor,
            key_name="mykey",
            metadata=properties or {},
            user_data=base64.b64encode(user_data.encode()).decode(),
        )
        port = until(lambda: self._ports(server_id), f"{name} has a port")[0]
        network = self._api.get("network", f"/v2.0/networks/{self.network.id}")["network"]
        shown = self.show(server_id)
        return ServerRecord(
            id=server_id,
            name=name,
            address=port["fixed_ips"][0]["ip_address"],
            nic=Nic(tap=f"tap{port['id'][:11]}", mac_address=port["mac_address"], mtu=network["mtu"]),
            zone=shown["OS-EXT-AZ:availability_zone"],
            flavor=flavor,
            public_key=self.public_key,
            user_data=user_data,
        )

    def wait_active(self, server: ServerRecord) -> None:
        until(lambda: self.show(server.id)["status"] == "ACTIVE", f"{server.name} is ACTIVE")

    def wait_reaching(self, server: ServerRecord) -> None:
        """Waits until a guest of the netns driver receives any response, also one with the status 401."""
        argv = ("curl", "-s", "-m", "9", "-o", "/dev/null", "http://169.254.169.254/")
        until(lambda: self.cloud.reaches(f"qvm-{server.id}", *argv), f"{server.name} reaches the metadata service")

    def show(self, server_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._api.get("compute", f"/servers/{server_id}")["server"]
        return found

    def password(self, server: ServerRecord) -> str:
        """The password that the instance has posted, read by the owner."""
        return str(self._api.get("compute", f"/servers/{server.id}/os-server-password")["password"])

    def clear_password(self, server: ServerRecord) -> None:
        self._api.delete("compute", f"/servers/{server.id}/os-server-password")

    def _ports(self, server_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._api.get("network", f"/v2.0/ports?device_id={server_id}")["ports"]
        return found
