"""Networks, security groups, tags, lists."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from openimds.resources.caller import SYSTEM
from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound
from openimds.resources.query import ListQuery
from openimds.store.engine import Store, utc_now
from openimds.store.network import agents
from openimds.store.network.network_store import NetworkStore


def test_provider_attributes_are_shown_to_administrators_only(cloud: Any, operator: Any) -> None:
    network = cloud.make("network", name="test1", description="d", mtu=1450, tags=["a"])
    assert (network["name"], network["mtu"], network["status"], network["tags"]) == ("test1", 1450, "ACTIVE", ["a"])
    assert "provider:network_type" not in network
    assert operator.show("network", network["id"])["provider:network_type"] == "local"


@pytest.mark.parametrize("name", ["shared", "router__external"])
def test_attributes_of_administrators_are_refused_for_members(cloud: Any, operator: Any, name: str) -> None:
    with pytest.raises(Forbidden, match="only an administrator"):
        cloud.make("network", **{name: True})
    assert cloud.make("network", **{name: False})[name.replace("__", ":")] is False
    assert operator.make("network", project_id="p", **{name: True})[name.replace("__", ":")] is True


def test_shared_network_is_visible_and_cannot_be_changed(operator: Any, stranger: Any) -> None:
    network = operator.make("network", name="s", shared=True, project_id="owner")
    assert stranger.show("network", network["id"])["name"] == "s"
    with pytest.raises(Forbidden, match="belongs to another project"):
        stranger.change("network", network["id"], name="mine")
    with pytest.raises(Forbidden, match="belongs to another project"):
        stranger.remove("network", network["id"])
    operator.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    stranger.make("port", network_id=network["id"])
    with pytest.raises(Conflict, match="Multiple tenants are using it"):
        operator.change("network", network["id"], shared=False)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"provider__network_type": "flat"}, "provider:physical_network"),
        ({"provider__network_type": "vlan", "provider__physical_network": "p1"}, "provider:segmentation_id"),
        (
            {
                "provider__network_type": "vlan",
                "provider__physical_network": "p1",
                "provider__segmentation_id": 4095,
            },
            "provider:segmentation_id",
        ),
        ({"provider__network_type": "vxlan"}, "provider:segmentation_id"),
        ({"provider__network_type": "local", "provider__segmentation_id": 5}, "provider:segmentation_id"),
    ],
)
def test_provider_network_needs_its_segment(operator: Any, wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        operator.make("network", project_id="p", **wanted)
    assert caught.value.field == field


def test_segment_of_another_network_is_a_conflict(operator: Any) -> None:
    wanted = {"provider__network_type": "flat", "provider__physical_network": "ext", "project_id": "p"}
    operator.make("network", **wanted)
    with pytest.raises(Conflict, match="is in use"):
        operator.make("network", **wanted)


def test_delete_removes_subnets_and_dhcp_ports(cloud: Any, operator: Any) -> None:
    network, subnet = cloud.net()
    operator.make("port", network_id=network["id"], device_owner="network:dhcp")
    port = cloud.make("port", network_id=network["id"])
    with pytest.raises(Conflict, match="ports still in use") as caught:
        cloud.remove("network", network["id"])
    assert port["id"] in caught.value.message
    cloud.remove("port", port["id"])
    cloud.remove("network", network["id"])
    for kind, gone in (("network", network), ("subnet", subnet)):
        with pytest.raises(NotFound):
            cloud.show(kind, gone["id"])
    assert operator.names("port") == []


class TestSecurityGroups:
    def test_every_project_has_a_default_group_that_stays(self, cloud: Any, stranger: Any) -> None:
        assert cloud.names("security_group") == ["default"]
        assert stranger.names("security_group") == ["default"]
        default = cloud.network.list("security_group", cloud.caller, ListQuery()).items[0]
        assert default["security_group_rules"] == []
        with pytest.raises(Conflict, match=r"(?i)default"):
            cloud.make("security_group", name="default")
        with pytest.raises(Conflict, match=r"(?i)default"):
            cloud.change("security_group", default["id"], name="other")
        with pytest.raises(Conflict, match=r"(?i)default"):
            cloud.remove("security_group", default["id"])

    def test_group_is_renamed_and_deleted(self, cloud: Any) -> None:
        group = cloud.make("security_group", name="web", description="d")
        assert cloud.change("security_group", group["id"], name="www")["name"] == "www"
        cloud.remove("security_group", group["id"])
        with pytest.raises(NotFound):
            cloud.show("security_group", group["id"])

    @pytest.mark.parametrize("name", ["default", "Default"])
    def test_second_default_group_is_a_conflict(self, cloud: Any, name: str) -> None:
        default = cloud.network.list("security_group", cloud.caller, ListQuery()).items[0]
        group = cloud.make("security_group", name="web")
        for attempt in (
            lambda: cloud.change("security_group", group["id"], name=name),
            lambda: cloud.make("security_group", name=name),
        ):
            with pytest.raises(Conflict) as caught:
                attempt()
            assert caught.value.kind == "SecurityGroupDefaultAlreadyExists"
        assert cloud.change("security_group", default["id"], name="default", description="d")["description"] == "d"


class TestTags:
    def test_tags_are_replaced_added_and_removed(self, cloud: Any) -> None:
        network = cloud.make("network", name="n")
        change = cloud.network.change_tags
        assert change("network", cloud.caller, network["id"], lambda tags: [*tags, "a", "b", "a"]) == ["a", "b"]
        assert cloud.network.tags("network", cloud.caller, network["id"]) == ["a", "b"]
        assert cloud.show("network", network["id"])["tags"] == ["a", "b"]

    def test_filters(self, cloud: Any) -> None:
        for name, tags in (("ab", ["a", "b"]), ("a", ["a"]), ("A", ["A"]), ("none", []), ("odd", ['x"a'])):
            cloud.make("network", name=name, tags=tags)
        assert cloud.names("network", tags="a") == ["a", "ab"]
        assert cloud.names("network", tags="a,b") == ["ab"]
        assert cloud.names("network", **{"tags-any": "b,A"}) == ["A", "ab"]
        assert cloud.names("network", **{"not-tags": "a,b"}) == ["A", "a", "none", "odd"]
        assert cloud.names("network", **{"not-tags-any": "a,A"}) == ["none", "odd"]
        assert cloud.names("network", tags='x"a') == ["odd"]


class TestLists:
    def test_filters(self, cloud: Any, operator: Any) -> None:
        network, subnet = cloud.net("10.0.0.0/24")
        other, _ = cloud.net("10.1.0.0/24")
        for name, where in (("a", network), ("b", network), ("c", other)):
            cloud.make("port", network_id=where["id"], name=name, device_id=f"vm-{name}")
        for filters, expected in (
            ({"name": "a"}, ["a"]),
            ({"name": ["a", "c"]}, ["a", "c"]),
            ({"network_id": network["id"]}, ["a", "b"]),
            ({"device_id": "vm-c"}, ["c"]),
            ({"fixed_ips": "ip_address=10.0.0.3"}, ["b"]),
            ({"fixed_ips": ["ip_address=10.0.0.3", "ip_address=10.0.0.2"]}, ["a", "b"]),
            ({"fixed_ips": f"subnet_id={subnet['id']}"}, ["a", "b"]),
            ({"fixed_ips": ["ip_address=10.1.0.2", f"subnet_id={subnet['id']}"]}, []),
            ({"fixed_ips": "ip_address_substr=10.1"}, ["c"]),
            ({"admin_state_up": "True"}, ["a", "b", "c"]),
            ({"status": "ACTIVE"}, []),
            ({"device_owner": ""}, ["a", "b", "c"]),
            ({"tenant_id": cloud.caller.project_id}, ["a", "b", "c"]),
            ({"network_id": "no-such-id"}, []),
        ):
            assert cloud.names("port", **filters) == expected, filters
        macs = [p["mac_address"] for p in cloud.network.list("port", cloud.caller, ListQuery()).items]
        assert len(cloud.names("port", mac_address=macs[0].upper())) == 1
        assert operator.names("port", binding__host_id="node9") == []

    @pytest.mark.parametrize(
        ("kind", "attribute", "value"),
        [
            ("network", "provider:network_type", "vlan"),
            ("network", "provider:physical_network", "physnet1"),
            ("network", "provider:segmentation_id", "123"),
            ("port", "binding:host_id", "node7"),
        ],
    )
    def test_attributes_of_administrators_select_and_sort_for_administrators_only(
        self, cloud: Any, operator: Any, kind: str, attribute: str, value: str
    ) -> None:
        segment = {"network_type": "vlan", "physical_network": "physnet1", "segmentation_id": 123}
        provider = {f"provider:{name}": value for name, value in segment.items()}
        network = operator.make("network", name="seen", project_id=cloud.caller.project_id, **provider)["id"]
        project = cloud.caller.project_id
        operator.make("port", name="seen", network_id=network, project_id=project, binding__host_id="node7")
        assert cloud.names(kind) == ["seen"]
        assert operator.names(kind, **{attribute: value}) == ["seen"]
        assert cloud.names(kind, **{attribute: value}) == []
        assert cloud.names(kind, **{attribute: [value, "other"]}) == []
        by_attribute = ListQuery(sort=((attribute, False),))
        assert operator.network.list(kind, operator.caller, by_attribute).items
        with pytest.raises(BadRequest, match="sort_key"):
            cloud.network.list(kind, cloud.caller, by_attribute)

    @pytest.mark.parametrize(
        ("filters", "field"),
        [
            ({"colour": "red"}, "colour"),
            ({"admin_state_up": "perhaps"}, "admin_state_up"),
            ({"fixed_ips": "10.0.0.1"}, "fixed_ips"),
            ({"revision_number": "x"}, "revision_number"),
        ],
    )
    def test_invalid_filters_are_refused(self, cloud: Any, filters: dict[str, str], field: str) -> None:
        with pytest.raises(BadRequest) as caught:
            cloud.names("port", **filters)
        assert caught.value.field == field

    def test_pages_follow_the_marker(self, cloud: Any) -> None:
        for number in range(7):
            cloud.make("network", name=f"n{number // 2}", description=f"{number}")
        for descending in (False, True):
            sort = (("name", descending),)
            seen: list[str] = []
            more = True
            while more:
                asked = ListQuery(sort=sort, limit=3, marker=seen[-1] if seen else None)
                page = cloud.network.list("network", cloud.caller, asked)
                seen += [item["id"] for item in page.items]
                more = page.more
            everything = cloud.network.list("network", cloud.caller, ListQuery(sort=sort)).items
            assert seen == [item["id"] for item in everything]
            names = [item["name"] for item in everything]
            assert names == sorted(names, reverse=descending)

    def test_page_before_a_marker_is_reversed(self, cloud: Any) -> None:
        ids = sorted(cloud.make("network", name="n")["id"] for _ in range(5))
        page = cloud.network.list("network", cloud.caller, ListQuery(marker=ids[3], limit=2, reverse=True))
        assert [item["id"] for item in page.items] == ids[1:3]
        assert page.more

    def test_unknown_marker_and_sort_key_are_refused(self, cloud: Any) -> None:
        with pytest.raises(BadRequest, match="marker"):
            cloud.network.list("network", cloud.caller, ListQuery(marker="x", limit=1))
        with pytest.raises(BadRequest, match="sort_key"):
            cloud.network.list("network", cloud.caller, ListQuery(sort=(("colour", False),)))


def test_agent_is_alive_until_its_heartbeat_is_too_old(store: Store, cloud: Any) -> None:
    now = utc_now()
    report = {"agent_type": "DHCP agent", "started_at": now, "configurations": {"networks": 2}}
    with store.write(now) as session:
        agents.heartbeat(session, "openimds-dhcp-agent", "node1", report, now)
    first = NetworkStore(store, clock=lambda: now)
    later = NetworkStore(store, clock=lambda: now + timedelta(seconds=30))
    agent = first.agents(SYSTEM, ListQuery())[0]
    assert (agent["alive"], agent["host"], agent["configurations"]) == (True, "node1", {"networks": 2})
    assert later.agent(SYSTEM, agent["id"])["alive"] is False
    assert later.agents(SYSTEM, ListQuery(filters={"alive": ("true",)})) == []
    assert later.agents(cloud.caller, ListQuery()) == []
    with pytest.raises(NotFound):
        later.agent(cloud.caller, agent["id"])
    later.delete_agent(SYSTEM, agent["id"])
    assert later.agents(SYSTEM, ListQuery()) == []


def test_ip_availability_counts_addresses_for_administrators_only(cloud: Any, operator: Any) -> None:
    network, subnet = cloud.net("10.0.0.0/29")
    cloud.make("port", network_id=network["id"])
    shown = operator.network.ip_availability(operator.caller, network["id"])
    assert (shown["total_ips"], shown["used_ips"]) == (5, 1)
    assert shown["subnet_ip_availability"][0]["subnet_id"] == subnet["id"]
    with pytest.raises(Forbidden):
        cloud.network.ip_availabilities(cloud.caller, ListQuery())
