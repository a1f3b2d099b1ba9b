"""Every attribute of every resource, set by an administrator, a member, a reader and a member of another project.

The expectation comes from the rules that the API enforces, and the page docs/rights.md is written from the same rules. A new
attribute needs a value in VALUES.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from tests.contract.control.stage import SERVICE_PASSWORD, Cloud, ComputeAgent, Session, control_api
from tests.waiting import HANG_SECONDS

from openimds.control_api.network.attributes import ATTRIBUTE_MAP, KIND_BY_COLLECTION, MustBeUnset
from openimds.control_api.policy.base import WRITE, ResourceAttributes
from openimds.control_api.policy.defaults import resources, rules_by_name
from openimds.control_api.policy.enforcer import Credentials, default_policy

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3Jx4s4KpkVRTAB0mZ5UuO1nH3sMYXwQyZ9mXW3kUPv"
NETWORK, COMPUTE, IMAGES, IDENTITY = "/network/v2.0", "/compute/v2.1", "/image/v2/images", "/v3"
COLLECTION = {kind: path for path, kind in KIND_BY_COLLECTION.items()}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
DENIED = {403, 404}

RESOURCES = {resource.name: resource for resource in resources()}
CASES = [
    pytest.param(resource.name, operation, attribute, id=f"{operation} {resource.name} {attribute}")
    for resource in RESOURCES.values()
    for operation, attributes in (("create", resource.on_create), ("update", resource.on_update))
    for attribute in attributes
]

UNSUPPORTED = {
    "server adminPass",
    "server trusted_image_certificates",
    "server block_device_mapping",
    "server (rebuild) adminPass",
    "server (rebuild) trusted_image_certificates",
    "project is_domain",
    "role domain_id",
}
"""Attributes that the API knows and does not implement. A caller who may set them gets 501."""


@dataclass
class World:
    """A cloud with a member's resources, and the callers."""

    cloud: Cloud
    admin: Session
    member: Session
    reader: Session
    foreign: Session
    agent: Session
    shared: str
    """The administrator's network, which all projects share."""
    image: str
    network: str
    subnet: str
    outside: str
    server: str
    role: str
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def name(self) -> str:
        return f"n{self.number()}"

    def number(self) -> int:
        return next(self.numbers)

    def net(self) -> str:
        """The first three bytes of an unused IPv4 network."""
        number = self.number()
        return f"10.{100 + number // 250}.{number % 250}"

    def server_body(self) -> dict[str, Any]:
        return {"name": self.name(), "imageRef": self.image, "flavorRef": "1", "networks": "none"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A control API without the rule `openimds:write`, which refuses readers before the rules of actions do."""
    state = tmp_path_factory.mktemp("control")
    (state / "policy.yaml").write_text(f'"{WRITE}": "@"\n')
    with control_api(state) as running:
        yield running


@pytest.fixture(scope="module")
def world(cloud: Cloud, admin: Session, agent: ComputeAgent) -> World:
    member, foreign = cloud.member("alice"), cloud.member("mallory")
    reader = admin.post(f"{IDENTITY}/users", {"user": {"name": "rita", "password": "rita"}})["user"]["id"]
    roles = {role["name"]: role["id"] for role in admin.get(f"{IDENTITY}/roles")["roles"]}
    place = f"{IDENTITY}/projects/{member.project_id}/users/{reader}/roles/{roles['reader']}"
    assert admin.call("PUT", place).status_code == 204
    network = member.post(f"{NETWORK}/networks", {"network": {"name": "net"}})["network"]["id"]
    subnet = {"network_id": network, "cidr": "10.0.0.0/16"}
    outside = admin.post(f"{NETWORK}/networks", {"network": {"name": "public", "router:external": True}})["network"][
        "id"
    ]
    shared = admin.post(f"{NETWORK}/networks", {"network": {"name": "shared", "shared": True}})["network"]["id"]
    admin.post(f"{NETWORK}/subnets", {"subnet": {"network_id": shared, "cidr": "10.0.0.0/16"}})
    outer = {"network_id": outside, "cidr": "203.0.112.0/20", "enable_dhcp": False}
    admin.post(f"{NETWORK}/subnets", {"subnet": outer})
    subnet_id = member.post(f"{NETWORK}/subnets", {"subnet": subnet})["subnet"]["id"]
    for session in (member, admin):
        session.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "key", "public_key": ED25519}})
    made = World(
        cloud=cloud,
        admin=admin,
        member=member,
        reader=cloud.login("rita", "rita", "alice"),
        foreign=foreign,
        agent=cloud.login("neutron", SERVICE_PASSWORD, "service"),
        shared=shared,
        image=admin.get(f"{IMAGES}?name=guest")["images"][0]["id"],
        network=network,
        subnet=subnet_id,
        outside=outside,
        server="",
        role=roles["reader"],
    )
    made.server = member.post(f"{COMPUTE}/servers", {"server": made.server_body()}, "2.90")["server"]["id"]
    return made


class Body(dict[str, Any]):
    """A value that needs other attributes beside it."""


def _pools(world: World) -> Body:
    net = world.net()
    return Body(cidr=f"{net}.0/24", allocation_pools=[{"start": f"{net}.10", "end": f"{net}.20"}])


def _slaac(mode: str) -> Callable[[World], Body]:
    return lambda w: Body({"cidr": f"2001:db8:{w.number():x}::/64", "ip_version": 6, mode: "slaac"})


def _gateway(**more: Any) -> Callable[[World], Body]:
    return lambda w: Body(external_gateway_info={"network_id": w.outside, **more})


COMMON: Mapping[str, Any] = {
    "name": lambda w: w.name(),
    "description": lambda w: w.name(),
    "project_id": lambda w: w.member.project_id,
    "tenant_id": lambda w: w.member.project_id,
    "tags": lambda w: [w.name()],
    "admin_state_up": False,
}
SERVER: Mapping[str, Any] = {
    "imageRef": lambda w: w.image,
    "flavorRef": "1",
    "key_name": "key",
    "user_data": "YQ==",
    "metadata": {"a": "b"},
    "personality": [{"path": "/a", "contents": "YQ=="}],
    "availability_zone": "nova",
    "host": "node1",
    "hypervisor_hostname": "node1",
    "networks": "none",
    "security_groups": [{"name": "default"}],
    "min_count": 1,
    "max_count": 1,
    "return_reservation_id": False,
    "config_drive": True,
    "hostname": "h",
    "accessIPv4": "192.0.2.1",
    "accessIPv6": "2001:db8::1",
    "OS-DCF:diskConfig": "AUTO",
    "block_device_mapping": [{"a": "b"}],
    "block_device_mapping_v2": lambda w: [
        {"boot_index": 0, "source_type": "image", "destination_type": "local", "uuid": w.image}
    ],
    "adminPass": "x",
    "trusted_image_certificates": ["x"],
    "preserve_ephemeral": False,
}
VALUES: Mapping[str, Mapping[str, Any]] = {
    "network": {
        "shared": True,
        "router:external": True,
        "mtu": 1400,
        "port_security_enabled": False,
        "dns_domain": "example.org.",
        "provider:network_type": lambda w: Body(
            {"provider:network_type": "vxlan", "provider:segmentation_id": w.number()}
        ),
        "provider:physical_network": lambda w: Body(
            {"provider:network_type": "flat", "provider:physical_network": w.name()}
        ),
        "provider:segmentation_id": lambda w: Body(
            {"provider:network_type": "gre", "provider:segmentation_id": w.number()}
        ),
    },
    "subnet": {
        "network_id": lambda w: w.network,
        "cidr": lambda w: f"{w.net()}.0/24",
        "ip_version": 4,
        "gateway_ip": None,
        "allocation_pools": _pools,
        "update allocation_pools": [],
        "enable_dhcp": False,
        "ipv6_ra_mode": _slaac("ipv6_ra_mode"),
        "ipv6_address_mode": _slaac("ipv6_address_mode"),
        "dns_nameservers": ["192.0.2.1"],
        "host_routes": [],
        "tags:metadata-provider": lambda w: Body(tags=[f"metadata-provider={w.name()}"]),
    },
    "port": {
        "network_id": lambda w: w.network,
        "mac_address": lambda w: f"02:00:00:00:{w.number() // 250:02x}:{w.number() % 250:02x}",
        "fixed_ips": lambda w: [{"subnet_id": w.subnet}],
        "fixed_ips:ip_address": lambda w: Body(fixed_ips=[{"ip_address": f"10.0.200.{w.number() % 250}"}]),
        "device_id": lambda w: w.name(),
        "device_owner: network:*": lambda w: Body(device_owner="network:test"),
        "device_owner": "test:owner",
        "security_groups": [],
        "port_security_enabled": Body(port_security_enabled=False, security_groups=[]),
        "allowed_address_pairs": lambda w: [{"ip_address": f"10.0.201.{w.number() % 250}"}],
        "extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400"}],
        "dns_name": lambda w: w.name(),
        "binding:host_id": "node1",
        "binding:vnic_type": "normal",
        "binding:profile": {"a": "b"},
    },
    "router": {
        "external_gateway_info": _gateway(),
        "external_gateway_info:enable_snat": _gateway(enable_snat=False),
        "external_gateway_info:external_fixed_ips": lambda w: _gateway(
            external_fixed_ips=[{"ip_address": f"203.0.113.{w.number() % 250}"}]
        )(w),
        "routes": [],
    },
    "floatingip": {
        "floating_network_id": lambda w: w.outside,
        "floating_ip_address": lambda w: f"203.0.114.{w.number() % 250}",
        "subnet_id": None,
        "port_id": None,
        "fixed_ip_address": None,
    },
    "security_group": {},
    "server": SERVER,
    "server (rebuild)": SERVER,
    "server metadata": {"metadata": {"a": "b"}},
    "server tags": {},
    "keypair": {"public_key": ED25519, "type": "ssh", "user_id": lambda w: w.member.user_id},
    "flavor": {
        "id": lambda w: w.name(),
        "ram": 64,
        "vcpus": 1,
        "disk": 1,
        "OS-FLV-EXT-DATA:ephemeral": 1,
        "swap": 1,
        "rxtx_factor": 1.0,
        "os-flavor-access:is_public": False,
    },
    "flavor extra specs": {"extra_specs": {"a": "b"}},
    "image": {
        "id": lambda w: str(uuid.uuid4()),
        "owner": lambda w: w.member.project_id,
        "visibility": "community",
        "visibility: public": Body(visibility="public"),
        "container_format": "bare",
        "disk_format": "raw",
        "min_disk": 1,
        "min_ram": 1,
        "protected": True,
        "os_hidden": True,
        "(properties)": Body(os_distro="debian"),
    },
    "user": {
        "password": "secret",
        "email": "a@example.org",
        "enabled": True,
        "default_project_id": lambda w: w.member.project_id,
        "domain_id": "default",
    },
    "project": {"enabled": True, "domain_id": "default", "parent_id": "default", "is_domain": True},
    "role": {"domain_id": "default"},
    "role assignment": {
        "user_id": lambda w: w.member.user_id,
        "role_id": lambda w: w.role,
    },
}
"""A value of each attribute, or a function that makes one: not the default of a new resource where a rule decides."""


def attributes_of(world: World, resource: str, operation: str, attribute: str) -> dict[str, Any]:
    """The attributes of a request that sets this attribute."""
    known = {**COMMON, **VALUES[resource]}
    if attribute in known:
        found = known.get(f"{operation} {attribute}", known[attribute])
        found = found(world) if callable(found) else found
        return found if isinstance(found, Body) else {attribute: found}
    check = ATTRIBUTE_MAP[resource][attribute].check if resource in ATTRIBUTE_MAP else None
    assert isinstance(check, MustBeUnset), f"VALUES needs a value of {resource} {attribute}"
    return {attribute: check.values[-1]}


def test_every_attribute_of_the_network_api_is_declared() -> None:
    for kind, table in ATTRIBUTE_MAP.items():
        declared = {*RESOURCES[kind].on_create, *RESOURCES[kind].on_update}
        assert set(table) <= declared


# Requests ---------------------------------------------------------------------------------------------------------


def create(world: World, session: Session, resource: str, given: dict[str, Any]) -> requests.Response:
    if resource in COLLECTION:
        needed = {
            "network": {},
            "subnet": {"network_id": world.network, "cidr": f"{world.net()}.0/24"},
            "port": {"network_id": world.network},
            "floatingip": {"floating_network_id": world.outside},
        }.get(resource, {"name": world.name()})
        foreign = {"project_id": world.member.project_id} if session is world.foreign else {}
        given = {**needed, **foreign, **given}
        return session.call("POST", f"{NETWORK}/{COLLECTION[resource]}", {resource: given})
    if resource == "server":
        version = "2.56" if "personality" in given else "2.90"
        return session.call("POST", f"{COMPUTE}/servers", {"server": {**world.server_body(), **given}}, version)
    if resource == "keypair":
        user = {"user_id": world.member.user_id} if session is world.foreign else {}
        body = {"keypair": {"name": world.name(), **user, **given}}
        return session.call("POST", f"{COMPUTE}/os-keypairs", body, "2.10")
    if resource == "flavor":
        body = {"flavor": {"name": world.name(), "ram": 64, "vcpus": 1, "disk": 0, **given}}
        return session.call("POST", f"{COMPUTE}/flavors", body, "2.55")
    if resource == "flavor extra specs":
        return session.call("POST", f"{COMPUTE}/flavors/1/os-extra_specs", given)
    if resource == "image":
        owner = {"owner": world.member.project_id} if session is world.foreign else {}
        return session.call("POST", IMAGES, {"name": world.name(), **owner, **given})
    if resource == "role assignment":
        path = f"/projects/{world.member.project_id}/users/{world.member.user_id}/roles/{world.role}"
        return session.call("PUT", IDENTITY + path)
    return session.call("POST", f"{IDENTITY}/{resource}s", {resource: {"name": world.name(), **given}})


def fresh(world: World, resource: str) -> str:
    """A new resource of the member, or of the administrator if only administrators create it."""
    if resource.startswith("server"):
        return world.server
    if resource.startswith("flavor"):
        return "1"
    owner = world.admin if resource in {"user", "project", "role"} else world.member
    answer = create(world, owner, resource, {})
    assert answer.ok, answer.text
    return str((answer.json() if resource == "image" else answer.json()[resource])["id"])


def update(world: World, session: Session, resource: str, resource_id: str, given: dict[str, Any]) -> requests.Response:
    if resource in COLLECTION:
        path = f"{NETWORK}/{COLLECTION[resource]}/{resource_id}"
        if "tags" in given:
            return session.call("PUT", f"{path}/tags", given)
        return session.call("PUT", path, {resource: given})
    server = f"{COMPUTE}/servers/{resource_id}"
    if resource == "server":
        return session.call("PUT", server, {"server": given}, "2.90")
    if resource == "server (rebuild)":
        version = "2.56" if "personality" in given else "2.90"
        return session.call("POST", f"{server}/action", {"rebuild": {"imageRef": world.image, **given}}, version)
    if resource == "server metadata":
        return session.call("PUT", f"{server}/metadata", given)
    if resource == "server tags":
        return session.call("PUT", f"{server}/tags", given, "2.26")
    if resource == "flavor":
        return session.call("PUT", f"{COMPUTE}/flavors/{resource_id}", {"flavor": given}, "2.55")
    if resource == "flavor extra specs":
        return session.call("PUT", f"{COMPUTE}/flavors/{resource_id}/os-extra_specs/a", given["extra_specs"])
    if resource == "image":
        changes = [{"op": "add", "path": f"/{name}", "value": value} for name, value in given.items()]
        return session.call("PATCH", f"{IMAGES}/{resource_id}", changes, headers=PATCH)
    return session.call("PATCH", f"{IDENTITY}/{resource}s/{resource_id}", {resource: given})


# Expectations -----------------------------------------------------------------------------------------------------


def permitted(
    world: World,
    session: Session,
    resource: ResourceAttributes,
    operation: str,
    attribute: str,
    *,
    on_shared_network: bool = False,
) -> bool:
    """What the rules say about a resource of the member, on the member's network or the administrator's."""
    action = resource.create if operation == "create" else resource.update
    own = resource.name in {"server", "keypair", "image"} and operation == "create" and session is world.admin
    project = session.project_id if own else world.member.project_id
    target = {
        "project_id": project,
        "tenant_id": project,
        "user_id": session.user_id if own else world.member.user_id,
        "network:project_id": world.admin.project_id if on_shared_network else world.member.project_id,
        "network:shared": on_shared_network,
    }
    roles = frozenset(role["name"] for role in session.body["roles"])
    caller = Credentials(user_id=session.user_id, project_id=session.project_id, roles=roles)
    rules = [name for name in (action, resource.rule(action, attribute)) if name in rules_by_name()]
    return all(default_policy().permits(caller, rule, target) for rule in rules)


@pytest.mark.parametrize(("resource", "operation", "attribute"), CASES)
def test_attribute_is_set_by_permitted_callers_only(
    world: World, resource: str, operation: str, attribute: str
) -> None:
    declared = RESOURCES[resource]
    resource_id = fresh(world, resource) if operation == "update" else ""
    unsupported = f"{resource} {attribute}" in UNSUPPORTED
    # The administrator is the last: a value that is present already may be sent by everyone.
    for session in (world.foreign, world.reader, world.member, world.admin):
        if session is world.foreign and (resource, operation) == ("server", "create"):
            continue  # the body names no project, so that a member of another project creates a server of its own
        given = attributes_of(world, resource, operation, attribute)
        if operation == "create":
            answer = create(world, session, resource, given)
        else:
            answer = update(world, session, resource, resource_id, given)
        who = session.body["user"]["name"]
        if not permitted(world, session, declared, operation, attribute):
            # The body of a server is parsed before its rule is checked.
            assert answer.status_code in DENIED | ({501} if unsupported else set()), (
                who,
                answer.status_code,
                answer.text,
            )
        elif unsupported:
            assert answer.status_code == 501, (who, answer.text)
        elif resource == "server (rebuild)":
            assert answer.status_code in {202, 409}, (who, answer.text)  # 409: the agent has not booted it yet
        else:
            assert answer.ok, (who, answer.status_code, answer.text)


def test_reader_sets_no_attribute_of_any_resource(world: World) -> None:
    """The rules permit a token with the role reader alone no creation and no update."""
    assert [
        (resource.name, operation)
        for resource in RESOURCES.values()
        for operation, action in (("create", resource.create), ("update", resource.update))
        if action and permitted(world, world.reader, resource, operation, "name")
    ] == []


NETWORK_CASES = [case for case in CASES if case.values[0] in COLLECTION]
PORT_CASES = [case for case in CASES if case.values[0] == "port" and case.values[2] not in {"network_id", "fixed_ips"}]


@pytest.mark.parametrize(("resource", "operation", "attribute"), NETWORK_CASES)
def test_agent_sets_attributes_of_the_network_api(world: World, resource: str, operation: str, attribute: str) -> None:
    """Agents create and bind ports for all projects."""
    assert permitted(world, world.agent, RESOURCES[resource], operation, attribute)
    given = attributes_of(world, resource, operation, attribute)
    if operation == "create":
        answer = create(world, world.agent, resource, {"project_id": world.member.project_id, **given})
    else:
        answer = update(world, world.agent, resource, fresh(world, resource), given)
    assert answer.ok, (answer.status_code, answer.text)


@pytest.mark.parametrize(("resource", "operation", "attribute"), PORT_CASES)
def test_member_sets_fewer_attributes_on_a_network_of_another_project(
    world: World, resource: str, operation: str, attribute: str
) -> None:
    """The owner of a shared network decides who switches port security off or uses another address on it."""
    place = {"network_id": world.shared}
    given = attributes_of(world, resource, operation, attribute)
    if operation == "create":
        answer = create(world, world.member, resource, {**place, **given})
    else:
        port_id = create(world, world.member, resource, place).json()["port"]["id"]
        answer = update(world, world.member, resource, port_id, given)
    if permitted(world, world.member, RESOURCES[resource], operation, attribute, on_shared_network=True):
        assert answer.ok, (answer.status_code, answer.text)
    else:
        assert answer.status_code == 403, answer.text


# Every other change -----------------------------------------------------------------------------------------------

OPEN_TO_ALL = {("POST", "/v3/auth/tokens"), ("DELETE", "/v3/auth/tokens")}
"""Calls that need no right beyond a password or one's own token."""
OWN_RESOURCES = {
    ("POST", f"{COMPUTE}/servers"),
    ("POST", f"{COMPUTE}/os-keypairs"),
    *(("POST", f"{NETWORK}/{path}") for path in KIND_BY_COLLECTION if path not in {"subnets", "ports"}),
    ("POST", IMAGES),
}
"""Calls without a project in the request of this test: a member of any project creates something of its own."""
SERVER_ACTIONS: Mapping[str, Any] = {
    "reboot": {"type": "HARD"},
    "os-stop": None,
    "os-start": None,
    "rebuild": {"imageRef": "x"},
    "lock": None,
    "unlock": None,
    "forceDelete": None,
    "addSecurityGroup": {"name": "default"},
    "removeSecurityGroup": {"name": "default"},
}


def write_routes(world: World) -> list[tuple[str, str]]:
    """Every call of the API that is not GET or HEAD, from its OpenAPI document."""
    paths = requests.get(f"{world.cloud.url}/openapi.json", timeout=HANG_SECONDS).json()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [(method, path) for method, path in found if method not in {"GET", "HEAD"}]


def body_of(world: World, method: str, path: str) -> Any:
    """A valid body of the call."""
    tail = path.rsplit("/", 1)[-1]
    if path.startswith(NETWORK):
        kind = KIND_BY_COLLECTION.get(path.removeprefix(NETWORK).split("/")[1], "")
        if tail == "tags":
            return {"tags": ["a"]}
        if tail.endswith("router_interface"):
            return {"subnet_id": world.subnet}
        if tail.endswith("extraroutes"):
            return {"router": {"routes": [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]}}
        needed: dict[str, Any] = {"name": "x"} if kind != "floatingip" else {"description": "x"}
        if method == "POST":
            needed |= {
                "subnet": {"network_id": world.network, "cidr": f"{world.net()}.0/24"},
                "port": {"network_id": world.network},
                "floatingip": {"floating_network_id": world.outside},
            }.get(kind, {})
        return {kind: needed}
    if path.startswith(COMPUTE):
        return {
            "servers": {"server": world.server_body()},
            "{server_id}": {"server": {"name": "x"}},
            "metadata": {"metadata": {"a": "b"}},
            "tags": {"tags": ["a"]},
            "os-interface": {},
            "os-keypairs": {"keypair": {"name": "x"}},
            "flavors": {"flavor": {"name": "x", "ram": 1, "vcpus": 1, "disk": 1}},
            "{flavor_id}": {"flavor": {"description": "x"}},
            "os-extra_specs": {"extra_specs": {"a": "b"}},
            "{key}": {"meta": {"a": "b"}} if "metadata" in path else {"a": "b"},
        }.get(tail)
    if path.startswith(IDENTITY):
        kind = path.split("/")[2].removesuffix("s")
        if tail == "password":
            return {"user": {"password": "x", "original_password": "x"}}
        return {kind: {"name": "x"}}
    if path.startswith("/openimds"):
        return {
            "provisioned": {"entity": "l2"},
            "{host}": {"agent_type": "x", "started_at": "2026-11-21T10:00:00Z"},
            "report": {"boot_generation": 1, "power_state": "running"},
            "instances": {"instance_ids": ["x"]},
        }.get(tail)
    return [{"op": "add", "path": "/name", "value": "x"}] if method == "PATCH" else {"name": "x"}


def test_no_change_of_the_api_is_open_to_a_reader_or_another_project(world: World) -> None:
    """Each call is sent with a valid body for a resource of the member. A new route is covered without a new test."""
    image = str(create(world, world.member, "image", {}).json()["id"])
    ids = {kind: fresh(world, kind) for kind in COLLECTION}
    wrong = []
    for method, template in write_routes(world):
        if (method, template) in OPEN_TO_ALL:
            continue
        kind = KIND_BY_COLLECTION.get(template.removeprefix(NETWORK).split("/")[1], "network")
        path = template.format_map(
            {
                "resource_id": ids[kind], "router_id": ids["router"], "port_id": ids["port"], "server_id": world.server,
                "image_id": image, "flavor_id": "1", "target": world.member.project_id, "role_id": world.role,
                "user_id": world.member.user_id, "project_id": world.member.project_id, "domain_id": "default",
                "name": "key", "key": "a", "tag": "a", "rule_id": "x", "agent_id": "x", "action": "x", "binary": "x",
                "host": "x",
            }
        )  # fmt: skip
        headers = PATCH if method == "PATCH" and template.startswith(IMAGES) else {}
        bodies = [body_of(world, method, template)]
        if template.endswith("/file"):
            headers = {"Content-Type": "application/octet-stream"}
        if template == f"{COMPUTE}/servers/{{server_id}}/action":
            bodies = [{name: value} for name, value in SERVER_ACTIONS.items()]
        for session, body in itertools.product((world.reader, world.foreign), bodies):
            if session is world.foreign and (method, template) in OWN_RESOURCES:
                continue
            answer = session.call(method, path, body, "2.90", headers=headers)
            # The reader sees the member's resources, so that 404 is the response for resources that nobody has.
            hidden = session is world.foreign or template.endswith(("{agent_id}", "{rule_id}"))
            if answer.status_code not in {403, 501, *([404] if hidden else [])}:
                wrong.append((session.body["user"]["name"], method, template, body, answer.status_code, answer.text))
    assert wrong == []
