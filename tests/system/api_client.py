"""What a test needs and is not about, made by the control API's REST: the openstack client takes a second a line."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import requests
import yaml
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    subnet_id: str


@dataclass(frozen=True)
class ApiClient:
    """Of one cloud, as its administrator or as a member of a project (`member`)."""

    cloud: Cloud
    auth_url: str | None = None
    """Of another control API on the same store; None: the cloud's own."""
    auth: Mapping[str, str] = field(default_factory=dict)
    """The values that differ from the administrator's credentials in clouds.yaml."""

    def member(self, name: str) -> ApiClient:
        """A new project and its only user, who has the role `member` and no other role. For administrators."""
        password = secrets.token_urlsafe()
        project = self.create("identity", "/projects", project={"name": name})["id"]
        user = self.create("identity", "/users", user={"name": name, "password": password})["id"]
        (role,) = self.get("identity", "/roles?name=member")["roles"]
        self.call("identity", "PUT", f"/projects/{project}/users/{user}/roles/{role['id']}")
        return replace(self, auth={"username": name, "password": password, "project_name": name})

    def network(self, name: str, cidr: str) -> Network:
        """A network with one subnet and DHCP."""
        made = self.create("network", "/v2.0/networks", network={"name": name})
        return Network(made["id"], self.subnet(made["id"], ip_version=4, cidr=cidr, name=name))

    def subnet(self, network_id: str, **subnet: Any) -> str:
        """Its id."""
        return str(self.create("network", "/v2.0/subnets", subnet={"network_id": network_id, **subnet})["id"])

    def router(self, name: str, *networks: Network) -> str:
        """With an interface on each; its id."""
        made = self.create("network", "/v2.0/routers", router={"name": name})
        for network in networks:
            self.put("network", f"/v2.0/routers/{made['id']}/add_router_interface", {"subnet_id": network.subnet_id})
        return str(made["id"])

    def port(self, network: Network, **more: Any) -> dict[str, Any]:
        """A port that belongs to no device; `more`: as the API has it."""
        made: dict[str, Any] = self.create("network", "/v2.0/ports", port={"network_id": network.id, **more})
        return made

    def attach(self, server_id: str, port_id: str) -> None:
        self.create("compute", f"/servers/{server_id}/os-interface", interfaceAttachment={"port_id": port_id})

    def detach(self, server_id: str, port_id: str) -> None:
        self.delete("compute", f"/servers/{server_id}/os-interface/{port_id}")

    def external_flavor(self, name: str) -> None:
        """Of servers that the compute agent boots nothing for."""
        asked = {"name": name, "ram": 256, "vcpus": 1, "disk": 0}
        flavor = self.create("compute", "/flavors", flavor=asked)
        spec = {"openimds:driver": "external"}
        self.create("compute", f"/flavors/{flavor['id']}/os-extra_specs", extra_specs=spec)

    def server(self, name: str, network: Network, *, flavor: str = "m1.tiny", **more: Any) -> str:
        """Booting; `more`: as the API has it (`user_data`, `metadata`). Its id."""
        image = self.get("image", "/v2/images?name=guest")["images"][0]["id"]
        flavors = self.get("compute", "/flavors")["flavors"]
        flavor_id = next(one["id"] for one in flavors if one["name"] == flavor)
        server = {"name": name, "imageRef": image, "flavorRef": flavor_id, "networks": [{"uuid": network.id}], **more}
        return str(self.create("compute", "/servers", server=server)["id"])

    def set_properties(self, server_id: str, **properties: str) -> None:
        self.create("compute", f"/servers/{server_id}/metadata", metadata=properties)

    def unset_property(self, server_id: str, name: str) -> None:
        self.delete("compute", f"/servers/{server_id}/metadata/{name}")

    def give(self, port_id: str, subnet_id: str, addresses: Iterable[str]) -> None:
        """The port has these addresses, and no others."""
        fixed = [{"subnet_id": subnet_id, "ip_address": address} for address in addresses]
        self.put("network", f"/v2.0/ports/{port_id}", {"port": {"fixed_ips": fixed}})

    def revision(self) -> int:
        """The newest, whatever it is of."""
        return int(self.get("instance-metadata", "/snapshot?kinds=network")["revision"])

    def revision_of_ports(self, after: int) -> int:
        """Of the last change of a port that is server; `after` when there was none."""
        changes = self.get("instance-metadata", f"/changes?after={after}&kinds=port&timeout=0")["changes"]
        return max((int(change["revision"]) for change in changes), default=after)

    def create(self, service: str, path: str, **body: Any) -> Any:
        """POST; what the answer has under the same name."""
        (name,) = body
        return self.call(service, "POST", path, body)[name]

    def put(self, service: str, path: str, body: dict[str, Any]) -> Any:
        return self.call(service, "PUT", path, body)

    def delete(self, service: str, path: str) -> None:
        self.call(service, "DELETE", path)

    def get(self, service: str, path: str) -> Any:
        return self.call(service, "GET", path)

    def call(
        self, service: str, method: str, path: str, body: object = None, *, microversion: str | None = None
    ) -> Any:
        """The answer's JSON; None when it has none. One of 400 or above is an AssertionError. `microversion`: compute's."""
        answer = self.request(service, method, path, body, microversion=microversion)
        assert answer.ok, f"{method} {answer.request.url}: {answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def request(
        self, service: str, method: str, path: str, body: object = None, *, microversion: str | None = None
    ) -> requests.Response:
        """The answer itself, whatever its status is."""
        headers = {"OpenStack-API-Version": f"compute {microversion}"} if microversion else {}
        adapter = Adapter(self._session, service_type=service, raise_exc=False)
        return adapter.request(path, method, headers=headers, **({} if body is None else {"json": body}))

    @cached_property
    def _session(self) -> Session:
        clouds = yaml.safe_load((self.cloud.state_dir / "etc" / "clouds.yaml").read_text())["clouds"]
        auth = clouds["openimds"]["auth"] | ({"auth_url": self.auth_url} if self.auth_url else {}) | dict(self.auth)
        return Session(auth=Password(**auth), timeout=HANG_SECONDS)
