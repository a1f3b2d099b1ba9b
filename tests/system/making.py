"""What a test needs and is not about, made by the control API's REST: the openstack client takes a second a line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session
from tests.system.cloud import Cloud


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    subnet_id: str


@dataclass(frozen=True)
class Maker:
    """Of one cloud, as its administrator."""

    cloud: Cloud

    def network(self, name: str, cidr: str) -> Network:
        """A network with one subnet and DHCP."""
        made = self.made("network", "/v2.0/networks", network={"name": name})
        return Network(made["id"], self.subnet(made["id"], ip_version=4, cidr=cidr, name=name))

    def subnet(self, network_id: str, **subnet: Any) -> str:
        """Its id."""
        return str(self.made("network", "/v2.0/subnets", subnet={"network_id": network_id, **subnet})["id"])

    def router(self, name: str, *networks: Network) -> str:
        """With an interface on each; its id."""
        made = self.made("network", "/v2.0/routers", router={"name": name})
        for network in networks:
            self.put("network", f"/v2.0/routers/{made['id']}/add_router_interface", {"subnet_id": network.subnet_id})
        return str(made["id"])

    def server(self, name: str, network: Network, *, flavor: str = "m1.tiny", **more: Any) -> str:
        """Booting; `more`: as the API has it (`user_data`, `metadata`). Its id."""
        image = self.asked("image", "/v2/images?name=guest")["images"][0]["id"]
        flavors = self.asked("compute", "/flavors")["flavors"]
        flavor_id = next(one["id"] for one in flavors if one["name"] == flavor)
        server = {"name": name, "imageRef": image, "flavorRef": flavor_id, "networks": [{"uuid": network.id}], **more}
        return str(self.made("compute", "/servers", server=server)["id"])

    def set_properties(self, server_id: str, **properties: str) -> None:
        self.made("compute", f"/servers/{server_id}/metadata", metadata=properties)

    def unset_property(self, server_id: str, name: str) -> None:
        self.delete("compute", f"/servers/{server_id}/metadata/{name}")

    def made(self, service: str, path: str, **body: Any) -> Any:
        """POST; what the answer has under the same name."""
        (name,) = body
        return self._done(self._services[service].post(path, json=body)).json()[name]

    def put(self, service: str, path: str, body: dict[str, Any]) -> Any:
        return self._done(self._services[service].put(path, json=body)).json()

    def delete(self, service: str, path: str) -> None:
        self._done(self._services[service].delete(path))

    def asked(self, service: str, path: str) -> Any:
        return self._done(self._services[service].get(path)).json()

    @cached_property
    def _services(self) -> dict[str, Adapter]:
        clouds = yaml.safe_load((self.cloud.state_dir / "etc" / "clouds.yaml").read_text())["clouds"]
        session = Session(auth=Password(**clouds["openimds"]["auth"]))
        return {kind: Adapter(session, service_type=kind, raise_exc=False) for kind in ("compute", "network", "image")}

    @staticmethod
    def _done(answer: Any) -> Any:
        assert answer.ok, f"{answer.request.method} {answer.request.url}: {answer.status_code}: {answer.text}"
        return answer
