"""What the control API knows of the instances that clients ask about: the tests compare with it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session
from tests.system.clients.whole_guest import Nic
from tests.system.cloud import Cloud, run
from tests.waiting import until

RANGE = "10.77.0.0/24"
EXTERNAL = "m1.external"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A server as its owner sees it."""

    id: str
    name: str
    address: str
    nic: Nic
    zone: str
    flavor: str
    image_id: str
    public_key: str
    user_data: str
    properties: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApi:
    """Its services, asked by keystoneauth."""

    compute: Adapter
    network: Adapter
    image: Adapter

    @classmethod
    def connect(cls, auth: dict[str, Any]) -> ControlApi:
        session = Session(auth=Password(**auth))
        found = {kind: Adapter(session, service_type=kind, raise_exc=False) for kind in ("compute", "network", "image")}
        return cls(**found)


class Tenant:
    """A project with a network whose router serves metadata, and a key pair."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.key = folder / "key"
        """RSA: what every client can use, and passwords can be encrypted with."""
        self.network: dict[str, Any] = {}
        self.image_id = ""

    def prepare(self) -> None:
        run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "owner", "-f", str(self.key)])
        api = self.api
        self.network = _made(api.network, "/v2.0/networks", network={"name": "lan"})
        subnet = _made(api.network, "/v2.0/subnets", subnet={
            "network_id": self.network["id"], "ip_version": 4, "cidr": RANGE,
        })  # fmt: skip
        router = _made(api.network, "/v2.0/routers", router={"name": "edge"})
        _done(api.network.put(f"/v2.0/routers/{router['id']}/add_router_interface", json={"subnet_id": subnet["id"]}))
        flavor = _made(api.compute, "/flavors", flavor={"name": EXTERNAL, "ram": 256, "vcpus": 1, "disk": 0})
        spec = {"extra_specs": {"openimds:driver": "external"}}
        _done(api.compute.post(f"/flavors/{flavor['id']}/os-extra_specs", json=spec))
        _made(api.compute, "/os-keypairs", keypair={"name": "mykey", "public_key": self.public_key})
        self.image_id = next(image["id"] for image in _done(api.image.get("/v2/images"))["images"])

    @cached_property
    def api(self) -> ControlApi:
        """As the owner, with the clouds.yaml that `up` has written."""
        clouds = yaml.safe_load((self.cloud.state_dir / "etc" / "clouds.yaml").read_text())["clouds"]
        return ControlApi.connect(clouds["openimds"]["auth"])

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def create(self, name: str, flavor: str, user_data: str, properties: dict[str, str] | None = None) -> Known:
        """A server whose port is there; it may be building yet."""
        flavors = _done(self.api.compute.get("/flavors"))["flavors"]
        server = _made(self.api.compute, "/servers", server={
            "name": name, "key_name": "mykey", "metadata": properties or {}, "imageRef": self.image_id,
            "flavorRef": next(one["id"] for one in flavors if one["name"] == flavor),
            "networks": [{"uuid": self.network["id"]}],
            "user_data": base64.b64encode(user_data.encode()).decode(),
        })  # fmt: skip
        port = until(lambda: self._ports(server["id"]), f"{name} has a port")[0]
        shown = self.show(server["id"])
        return Known(
            id=server["id"],
            name=name,
            address=port["fixed_ips"][0]["ip_address"],
            nic=Nic(tap=f"tap{port['id'][:11]}", mac_address=port["mac_address"], mtu=self.network["mtu"]),
            zone=shown["OS-EXT-AZ:availability_zone"],
            flavor=flavor,
            image_id=self.image_id,
            public_key=self.public_key,
            user_data=user_data,
            properties=shown["metadata"],
        )

    def wait_active(self, known: Known) -> None:
        until(lambda: self.show(known.id)["status"] == "ACTIVE", f"{known.name} is ACTIVE")

    def wait_reaching(self, known: Known) -> None:
        """A guest of the netns driver: its DHCP client is done and it is answered, be it that it must send a token."""
        asks = ("curl", "-s", "-m", "9", "-o", "/dev/null", "http://169.254.169.254/")
        until(lambda: self.cloud.reaches(f"qvm-{known.id}", *asks), f"{known.name} reaches the metadata service")

    def show(self, server_id: str) -> dict[str, Any]:
        found: dict[str, Any] = _done(self.api.compute.get(f"/servers/{server_id}"))["server"]
        return found

    def password(self, known: Known) -> str:
        """What the instance has posted, as its owner reads it."""
        return str(_done(self.api.compute.get(f"/servers/{known.id}/os-server-password"))["password"])

    def clear_password(self, known: Known) -> None:
        answer = self.api.compute.delete(f"/servers/{known.id}/os-server-password")
        assert answer.ok, f"{answer.status_code}: {answer.text}"

    def _ports(self, server_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = _done(self.api.network.get(f"/v2.0/ports?device_id={server_id}"))["ports"]
        return found


def _made(service: Any, path: str, **body: Any) -> dict[str, Any]:
    (name,) = body
    found: dict[str, Any] = _done(service.post(path, json=body))[name]
    return found


def _done(answer: Any) -> Any:
    assert answer.ok, f"{answer.status_code}: {answer.text}"
    return answer.json()
