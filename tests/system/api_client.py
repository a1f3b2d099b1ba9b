"""A client of the control API for the set-up of tests.

The openstack client needs about a second for each command line.
"""

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
    """The requests of the administrator, or of a project member (`member`)."""

    cloud: Cloud
    auth_url: str | None = None
    """The URL of another control API on the same database. None if the requests go to the cloud's own."""
    auth: Mapping[str, str] = field(default_factory=dict)
    """Credentials that replace those of the administrator in clouds.yaml."""

    def member(self, name: str) -> ApiClient:
        """Creates a project and a user with only the role `member` in it. Needs the administrator's role."""
        password = secrets.token_urlsafe()
        project = self.create("identity", "/projects", project={"name": name})["id"]
        user = self.create("identity", "/users", user={"name": name, "password": password})["id"]
        (role,) = self.get("identity", "/roles?name=member")["roles"]
        self.call("identity", "PUT", f"/projects/{project}/users/{user}/roles/{role['id']}")
        return replace(self, auth={"username": name, "password": password, "project_name": name})

    def network(self, name: str, cidr: str) -> Network:
        """Creates a network with one subnet and DHCP."""
        made = self.create("network", "/v2.0/networks", network={"name": name})
        return Network(made["id"], self.subnet(made["id"], ip_version=4, cidr=cidr, name=name))

    def subnet(self, network_id: str, **subnet: Any) -> str:
        """Creates a subnet. Returns its id."""
        return str(self.create("network", "/v2.0/subnets", subnet={"network_id": network_id, **subnet})["id"])

    def router(self, name: str, *networks: Network) -> str:
        """Creates a router with an interface on each network. Returns its id."""
        made = self.create("network", "/v2.0/routers", router={"name": name})
        for network in networks:
            self.put("network", f"/v2.0/routers/{made['id']}/add_router_interface", {"subnet_id": network.subnet_id})
        return str(made["id"])

    def port(self, network: Network, **more: Any) -> dict[str, Any]:
        """Creates a port without a device. `more` are attributes of the API."""
        made: dict[str, Any] = self.create("network", "/v2.0/ports", port={"network_id": network.id, **more})
        return made

    def attach(self, server_id: str, port_id: str) -> None:
        self.create("compute", f"/servers/{server_id}/os-interface", interfaceAttachment={"port_id": port_id})

    def detach(self, server_id: str, port_id: str) -> None:
        self.delete("compute", f"/servers/{server_id}/os-interface/{port_id}")

    def external_flavor(self, name: str) -> None:
        """Creates a flavor of the external driver: the compute agent boots nothing for its servers."""
        asked = {"name": name, "ram": 256, "vcpus": 1, "disk": 0}
        flavor = self.create("compute", "/flavors", flavor=asked)
        spec = {"openimds:driver": "external"}
        self.create("compute", f"/flavors/{flavor['id']}/os-extra_specs", extra_specs=spec)

    def server(self, name: str, network: Network, *, flavor: str = "m1.tiny", **more: Any) -> str:
        """Creates a server and does not wait for its boot. `more` are attributes of the API. Returns its id."""
        image = self.get("image", "/v2/images?name=guest")["images"][0]["id"]
        flavors = self.get("compute", "/flavors")["flavors"]
        flavor_id = next(one["id"] for one in flavors if one["name"] == flavor)
        server = {"name": name, "imageRef": image, "flavorRef": flavor_id, "networks": [{"uuid": network.id}], **more}
        return str(self.create("compute", "/servers", server=server)["id"])

    def set_properties(self, server_id: str, **properties: str) -> None:
        self.create("compute", f"/servers/{server_id}/metadata", metadata=properties)

    def unset_property(self, server_id: str, name: str) -> None:
        self.delete("compute", f"/servers/{server_id}/metadata/{name}")

    def set_addresses(self, port_id: str, subnet_id: str, addresses: Iterable[str]) -> None:
        """Replaces all addresses of the port."""
        fixed = [{"subnet_id": subnet_id, "ip_address": address} for address in addresses]
        self.put("network", f"/v2.0/ports/{port_id}", {"port": {"fixed_ips": fixed}})

    def revision(self) -> int:
        """The newest revision of the store."""
        return int(self.get("instance-metadata", "/snapshot?kinds=network")["revision"])

    def revision_of_ports(self, after: int) -> int:
        """The revision of the last port change. `after` if no port has changed since."""
        changes = self.get("instance-metadata", f"/changes?after={after}&kinds=port&timeout=0")["changes"]
        return max((int(change["revision"]) for change in changes), default=after)

    def create(self, service: str, path: str, **body: Any) -> Any:
        """Sends a POST request. Returns the resource in the response."""
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
        """Sends a request. Returns the decoded JSON, or None if the body is empty.

        Raises AssertionError if the status is 400 or above. `microversion` is the version of the compute API.
        """
        response = self.request(service, method, path, body, microversion=microversion)
        assert response.ok, f"{method} {response.request.url}: {response.status_code}: {response.text}"
        return response.json() if response.content else None

    def request(
        self, service: str, method: str, path: str, body: object = None, *, microversion: str | None = None
    ) -> requests.Response:
        """Sends a request. Returns the response with any status."""
        headers = {"OpenStack-API-Version": f"compute {microversion}"} if microversion else {}
        adapter = Adapter(self._session, service_type=service, raise_exc=False)
        return adapter.request(path, method, headers=headers, **({} if body is None else {"json": body}))

    @cached_property
    def _session(self) -> Session:
        clouds = yaml.safe_load((self.cloud.state_dir / "etc" / "clouds.yaml").read_text())["clouds"]
        auth = clouds["openimds"]["auth"] | ({"auth_url": self.auth_url} if self.auth_url else {}) | dict(self.auth)
        return Session(auth=Password(**auth), timeout=HANG_SECONDS)
