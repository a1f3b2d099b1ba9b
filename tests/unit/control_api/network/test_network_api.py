"""The network service over HTTP: bodies, statuses and error messages."""

from __future__ import annotations

from typing import Any

import pytest

NOBODY = "7f6a1f9e-0000-4000-8000-000000000000"


@pytest.fixture
def net(member: Any) -> Any:
    """A network with a subnet: {"network": …, "subnet": …}."""
    network = member.make("network", name="net")
    return {"network": network, "subnet": member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")}


def test_version_documents_and_extensions(http: Any, member: Any) -> None:
    assert http.get("/network").json()["versions"][0]["links"][0]["href"] == "http://testserver/network/v2.0/"
    assert {r["name"] for r in member.get("")["resources"]} >= {"network", "subnet", "port"}


def test_request_without_a_token_is_401(http: Any) -> None:
    for headers in ({}, {"X-Auth-Token": "nobody's"}):
        answer = http.get("/network/v2.0/networks", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["NeutronError"]["type"] == "HTTPUnauthorized"


def test_resource_is_created_shown_updated_and_deleted(member: Any) -> None:
    network = member.make("network", name="n", description="d")
    path = f"/networks/{network['id']}"
    assert member.get(path)["network"] == network
    assert member.get("/networks")["networks"] == [network]
    assert member.put(path, {"network": {"name": "m"}})["network"]["name"] == "m"
    member.delete(path)
    error = member.get(path, 404)["NeutronError"]
    assert error == {"type": "NetworkNotFound", "message": f"Network {network['id']} could not be found.", "detail": ""}
    assert member.delete(path, 404)


def test_bulk_create_is_one_transaction(member: Any) -> None:
    made = member.post("/networks", {"networks": [{"name": "a"}, {"name": "b"}]})["networks"]
    assert [network["name"] for network in made] == ["a", "b"]
    bad = {
        "subnets": [{"network_id": made[0]["id"], "cidr": "10.0.0.0/24"}, {"network_id": NOBODY, "cidr": "10.0.0.0/24"}]
    }
    member.post("/subnets", bad, 404)
    assert member.get("/subnets")["subnets"] == []


BAD_BODIES = [
    ("networks", {"network": {"name": 5}}, "name"),
    ("networks", {"network": {"name": "x" * 256}}, "name"),
    ("networks", {"network": {"mtu": "large"}}, "mtu"),
    ("networks", {"network": {"mtu": 10}}, "mtu"),
    ("networks", {"network": {"admin_state_up": "perhaps"}}, "admin_state_up"),
    ("networks", {"network": {"colour": "red"}}, "colour"),
    ("networks", {"network": {"tags": ["a,b"]}}, "tags"),
    ("networks", {"netwrk": {}}, "network"),
    ("networks", ["network"], "network"),
    ("networks", {"networks": []}, "networks"),
    ("subnets", {"subnet": {"network_id": "not-a-uuid", "cidr": "10.0.0.0/24"}}, "network_id"),
    ("subnets", {"subnet": {"network_id": NOBODY}}, "cidr"),
    ("subnets", {"subnet": {"cidr": "10.0.0.0/24"}}, "network_id"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "300.0.0.0/24"}}, "cidr"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/33"}}, "cidr"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.5/24"}}, "10.0.0.0/24"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0"}}, "cidr"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": 10}}, "cidr"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "ip_version": 5}}, "ip_version"),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0"}}, "gateway_ip"),
    (
        "subnets",
        {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "dns_nameservers": ["nine"]}},
        "dns_nameservers",
    ),
    (
        "subnets",
        {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "host_routes": [{"nexthop": "10.0.0.1"}]}},
        "host_routes",
    ),
    (
        "subnets",
        {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "allocation_pools": [{"start": "x", "end": "y"}]}},
        "allocation_pools",
    ),
    ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "::/64", "ipv6_ra_mode": "magic"}}, "ipv6_ra_mode"),
    ("ports", {"port": {"network_id": NOBODY, "mac_address": "fa:16:3e:00:00"}}, "mac_address"),
    ("ports", {"port": {"network_id": NOBODY, "mac_address": "01:00:5e:00:00:01"}}, "mac_address"),
    ("ports", {"port": {"network_id": NOBODY, "fixed_ips": [{"ip_address": "10.0.0.999"}]}}, "fixed_ips"),
    ("ports", {"port": {"network_id": NOBODY, "fixed_ips": [{"subnet_id": "x"}]}}, "fixed_ips"),
    ("ports", {"port": {"network_id": NOBODY, "fixed_ips": [{}]}}, "fixed_ips"),
    ("ports", {"port": {"network_id": NOBODY, "fixed_ips": "10.0.0.5"}}, "fixed_ips"),
    ("ports", {"port": {"network_id": NOBODY, "security_groups": ["web"]}}, "security_groups"),
    (
        "ports",
        {"port": {"network_id": NOBODY, "allowed_address_pairs": [{"mac_address": "fa:16:3e:00:00:01"}]}},
        "allowed_address_pairs",
    ),
    (
        "ports",
        {"port": {"network_id": NOBODY, "extra_dhcp_opts": [{"opt_name": "x", "opt_value": "a\ndhcp-script=/x"}]}},
        "extra_dhcp_opts",
    ),
    (
        "ports",
        {"port": {"network_id": NOBODY, "extra_dhcp_opts": [{"opt_name": "x,y\n", "opt_value": "a"}]}},
        "extra_dhcp_opts",
    ),
    ("ports", {"port": {"network_id": NOBODY, "dns_name": "-bad-"}}, "dns_name"),
    ("ports", {"port": {"network_id": NOBODY, "binding:vnic_type": "direct"}}, "binding:vnic_type"),
    ("routers", {"router": {"external_gateway_info": {"network_id": "x"}}}, "external_gateway_info"),
    ("routers", {"router": {"external_gateway_info": {"enable_snat": True}}}, "external_gateway_info"),
    ("routers", {"router": {"external_gateway_info": []}}, "external_gateway_info"),
    ("routers", {"router": {"routes": [{"destination": "10.0.0.0/8", "nexthop": "x"}]}}, "routes"),
    ("floatingips", {"floatingip": {}}, "floating_network_id"),
    ("floatingips", {"floatingip": {"floating_network_id": NOBODY, "port_id": "x"}}, "port_id"),
    ("security-groups", {"security_group": {"name": None}}, "name"),
]


@pytest.mark.parametrize(("path", "body", "named"), BAD_BODIES, ids=lambda value: str(value)[:60])
def test_malformed_body_is_400_and_names_the_field(member: Any, path: str, body: Any, named: str) -> None:
    error = member.post(f"/{path}", body, 400)["NeutronError"]
    assert named in error["message"]
    assert error["type"]


def test_body_that_is_not_json_is_400(member: Any) -> None:
    headers = {"X-Auth-Token": "member", "Content-Type": "application/json"}
    answer = member.http.request("POST", "/network/v2.0/networks", content=b"{", headers=headers)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["NeutronError"]["message"]


def test_read_only_attribute_cannot_be_updated(member: Any, net: Any) -> None:
    path = f"/subnets/{net['subnet']['id']}"
    error = member.put(path, {"subnet": {"cidr": "10.9.0.0/24"}}, 400)["NeutronError"]
    assert error["message"] == "Cannot update read-only attribute cidr."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("subnets", {"subnet": {"network_id": NOBODY, "cidr": "10.0.0.0/24", "subnetpool_id": NOBODY}}),
        ("networks", {"network": {"qos_policy_id": NOBODY}}),
        ("networks", {"network": {"vlan_transparent": True}}),
        ("routers", {"router": {"ha": True}}),
        ("security-group-rules", {"security_group_rule": {"direction": "ingress"}}),
    ],
)
def test_unsupported_attribute_is_501(member: Any, path: str, body: Any) -> None:
    assert "openimds" in member.post(f"/{path}", body, 501)["NeutronError"]["message"]


def test_unknown_route_is_404(member: Any) -> None:
    for path in ("/trunks", "/subnetpools", "/qos/policies", "/service-providers"):
        assert "not part of what openimds serves" in member.get(path, 404)["NeutronError"]["message"]
    assert "could not be found" in member.get("/networks/no-uuid", 404)["NeutronError"]["message"]
    member.put("/routers/x/add_external_gateways", {"router": {}}, 501)
    assert member.call("PATCH", "/network/v2.0/networks").status_code == 405


def test_resource_in_use_and_exhausted_pool_are_409(member: Any, net: Any) -> None:
    router = member.make("router", name="r")
    path = f"/routers/{router['id']}"
    member.put(f"{path}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
    other = member.make("network", name="other")
    overlapping = member.make("subnet", network_id=other["id"], cidr="10.0.0.0/16")
    error = member.put(f"{path}/add_router_interface", {"subnet_id": overlapping["id"]}, 409)["NeutronError"]
    assert "overlaps" in error["message"]
    for used in (path, f"/networks/{net['network']['id']}", f"/subnets/{net['subnet']['id']}"):
        member.delete(used, 409)
    tiny = member.make("network", name="tiny")
    member.make("subnet", network_id=tiny["id"], cidr="10.5.0.0/30")
    member.make("port", network_id=tiny["id"])
    full = member.post("/ports", {"port": {"network_id": tiny["id"]}}, 409)["NeutronError"]
    assert full["type"] == "IpAddressGenerationFailure"
    removed = member.put(f"{path}/remove_router_interface", {"subnet_id": net["subnet"]["id"]})
    assert removed["subnet_id"] == net["subnet"]["id"]
    member.put(f"{path}/remove_router_interface", {"subnet_id": net["subnet"]["id"]}, 404)
    member.put(f"{path}/add_router_interface", {"subnet_id": "x"}, 400)
    member.put(f"{path}/add_router_interface", {}, 400)


def test_resources_of_another_project_are_404(member: Any, stranger: Any, net: Any) -> None:
    port = member.make("port", network_id=net["network"]["id"])
    for path in (f"/networks/{net['network']['id']}", f"/subnets/{net['subnet']['id']}", f"/ports/{port['id']}"):
        stranger.get(path, 404)
        stranger.delete(path, 404)
        stranger.get(f"{path}/tags", 404)
        stranger.put(f"{path}/tags", {"tags": []}, 404)
    stranger.get("/quotas/member-project", 404)
    assert stranger.get("/ports")["ports"] == []


def test_operator_attributes_are_403_for_members(member: Any, operator: Any, agent: Any, net: Any) -> None:
    member.post("/networks", {"network": {"shared": True}}, 403)
    member.post("/ports", {"port": {"network_id": net["network"]["id"], "binding:host_id": "h"}}, 403)
    port = agent.make(
        "port", network_id=net["network"]["id"], device_owner="network:dhcp", **{"binding:host_id": "node1"}
    )
    assert port["binding:host_id"] == "node1"
    assert "binding:host_id" in operator.get(f"/ports/{port['id']}")["port"]
    assert "binding:host_id" not in member.get(f"/ports/{port['id']}")["port"]


def test_filters_fields_and_pages_are_applied(member: Any, net: Any) -> None:
    for number in range(5):
        member.make("port", network_id=net["network"]["id"], name=f"p{number}")
    assert member.get("/ports?name=p1&name=p3&fields=name&sort_key=name&sort_dir=desc")["ports"] == [
        {"name": "p3"},
        {"name": "p1"},
    ]
    assert [p["name"] for p in member.get("/ports?fixed_ips=ip_address%3D10.0.0.4")["ports"]] == ["p2"]
    seen: list[str] = []
    path = "/ports?limit=2&sort_key=name&fields=id&fields=name"
    while path:
        page = member.get(path)
        seen += [p["name"] for p in page["ports"]]
        links = {link["rel"]: link["href"] for link in page.get("ports_links", ())}
        path = links.get("next", "").removeprefix("http://testserver/network/v2.0")
    assert seen == [f"p{n}" for n in range(5)]
    for query in ("limit=many", "sort_key=x", "sort_dir=up&sort_key=name", "sort_dir=asc", "colour=red", "marker=x"):
        member.get(f"/ports?{query}", 400)


def test_tags_are_added_replaced_and_removed(member: Any, net: Any) -> None:
    path = f"/subnets/{net['subnet']['id']}/tags"
    assert member.put(path, {"tags": ["a", "b"]}) == {"tags": ["a", "b"]}
    member.put(f"{path}/c", None, 201)
    member.get(f"{path}/c", 204)
    member.delete(f"{path}/a")
    member.delete(f"{path}/a", 404)
    assert member.get(path) == {"tags": ["b", "c"]}
    assert [s["tags"] for s in member.get("/subnets?tags=b")["subnets"]] == [["b", "c"]]
    member.put(path, {"tags": [","]}, 400)
    member.put(path, {"tags": [str(n) for n in range(51)]}, 400)
    member.delete(path)
    assert member.get(path) == {"tags": []}
    router = member.make("router", name="r")
    assert member.put(f"/routers/{router['id']}/tags", {"tags": ["x"]}) == {"tags": ["x"]}


PROVIDER = "metadata-provider=lb-1"


class TestProviderTags:
    def test_members_cannot_add_a_provider_tag(self, member: Any, net: Any) -> None:
        body = {"network_id": net["network"]["id"], "cidr": "10.9.0.0/24", "tags": ["a", PROVIDER]}
        path = f"/subnets/{net['subnet']['id']}/tags"
        answers = (
            member.post("/subnets", {"subnet": body}, 403),
            member.post("/subnets", {"subnets": [{**body, "tags": []}, {**body, "cidr": "10.8.0.0/24"}]}, 403),
            member.put(path, {"tags": [PROVIDER]}, 403),
            member.post(path, {"tags": [PROVIDER]}, 403),
            member.put(f"{path}/metadata-provider%3Dlb-1", None, 403),
        )
        assert {answer["NeutronError"]["type"] for answer in answers} == {"PolicyNotAuthorized"}
        assert [subnet["tags"] for subnet in member.get("/subnets")["subnets"]] == [[]]

    def test_members_cannot_remove_a_provider_tag(self, member: Any, operator: Any, net: Any) -> None:
        path = f"/subnets/{net['subnet']['id']}/tags"
        operator.put(f"{path}/metadata-provider%3Dlb-1", None, 201)
        for answer in (
            member.put(path, {"tags": ["a"]}, 403),
            member.put(path, {"tags": ["metadata-provider=lb-2"]}, 403),
            member.put(path, {"tags": [PROVIDER, "metadata-provider=lb-2"]}, 403),
            member.delete(f"{path}/metadata-provider%3Dlb-1", 403),
            member.delete(path, 403),
        ):
            assert answer["NeutronError"]["type"] == "PolicyNotAuthorized"
        assert member.put(path, {"tags": ["a", PROVIDER]}) == {"tags": ["a", PROVIDER]}
        assert member.post(path, {"tags": ["b", PROVIDER]}, 201) == {"tags": ["a", PROVIDER, "b"]}
        member.delete(f"{path}/a")
        assert member.get(path) == {"tags": [PROVIDER, "b"]}

    def test_administrators_and_services_can_set_provider_tags(self, operator: Any, agent: Any, net: Any) -> None:
        path = f"/subnets/{net['subnet']['id']}/tags"
        for number, caller in enumerate((operator, agent)):
            cidr = f"10.{number + 1}.0.0/24"
            made = caller.make("subnet", network_id=net["network"]["id"], cidr=cidr, tags=[PROVIDER])
            assert made["tags"] == [PROVIDER]
            assert caller.put(path, {"tags": [PROVIDER]}) == {"tags": [PROVIDER]}
            caller.delete(path)

    def test_members_can_set_the_tag_on_other_kinds(self, member: Any, net: Any) -> None:
        path = f"/networks/{net['network']['id']}/tags"
        assert member.put(path, {"tags": [PROVIDER]}) == {"tags": [PROVIDER]}


@pytest.mark.parametrize(
    "info", [{}, {"external_fixed_ips": []}, {"qos_policy_id": None}, {"network_id": None}], ids=str
)
def test_gateway_without_a_network_is_no_gateway(member: Any, info: dict[str, Any]) -> None:
    """A creation with such an object failed with 500."""
    router = member.make("router", external_gateway_info=info)
    assert router["external_gateway_info"] is None
    changed = member.put(f"/routers/{router['id']}", {"router": {"external_gateway_info": info}})["router"]
    assert changed["external_gateway_info"] is None


def test_floating_ip_is_associated_and_released(member: Any, operator: Any, net: Any) -> None:
    public = operator.make("network", name="public", **{"router:external": True})
    operator.make("subnet", network_id=public["id"], cidr="203.0.113.0/24", enable_dhcp=False)
    router = member.make("router", name="r", external_gateway_info={"network_id": public["id"]})
    port = member.make("port", network_id=net["network"]["id"])
    wanted = {"floating_network_id": public["id"], "port_id": port["id"]}
    error = member.post("/floatingips", {"floatingip": wanted}, 404)["NeutronError"]
    assert error["type"] == "ExternalGatewayForFloatingIPNotFound"
    member.put(f"/routers/{router['id']}/add_router_interface", {"subnet_id": net["subnet"]["id"]})
    floating = member.make("floatingip", **wanted)
    assert floating["router_id"] == router["id"]
    freed = member.put(f"/floatingips/{floating['id']}", {"floatingip": {"port_id": None}})["floatingip"]
    assert freed["status"] == "DOWN"
    assert [n["name"] for n in member.get("/networks?router:external=True")["networks"]] == ["public"]


def test_agents_quotas_and_usage_are_shown(member: Any, operator: Any, net: Any) -> None:
    assert member.get("/quotas/member-project")["quota"]["network"] > 0
    assert member.get("/quotas/member-project/details")["quota"]["network"]["used"] == 1
    member.put("/quotas/member-project", {"quota": {"network": 5}}, 501)
    assert {z["resource"] for z in member.get("/availability_zones")["availability_zones"]} == {"network", "router"}
    assert operator.get("/network-ip-availabilities")["network_ip_availabilities"][0]["used_ips"] == 0
    assert {"router", "security-group", "standard-attr-tag"} <= {
        e["alias"] for e in member.get("/extensions")["extensions"]
    }
    assert member.get("/extensions/router")["extension"]["alias"] == "router"
    member.get("/extensions/bgp", 404)
    assert member.get("/security-group-rules") == {"security_group_rules": []}
    assert member.get("/agents") == {"agents": []}


def test_openapi_document_has_the_request_bodies(http: Any) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    body = paths["/network/v2.0/subnets"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["subnet"]["required"] == ["network_id", "cidr"]
