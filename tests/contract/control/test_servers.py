"""Compute v2.1: servers from creation to deletion, over HTTP, with an agent that reports."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.contract.control.stage import Cloud, ComputeAgent, Session

SERVERS = "/compute/v2.1/servers"
V = "2.96"
USER_DATA = b"#!/bin/sh\necho \x00\xff\n"


@pytest.fixture(scope="module")
def network(admin: Session) -> dict[str, Any]:
    return make_network(admin, "192.168.40.0/24")


@pytest.fixture
def server(admin: Session, agent: ComputeAgent, network: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A server with the status ACTIVE."""
    agent.heartbeat()
    made = create(admin, network)
    agent.report(made["id"])
    yield show(admin, made["id"])
    admin.call("DELETE", f"{SERVERS}/{made['id']}")


def make_network(session: Session, cidr: str, name: str = "net") -> dict[str, Any]:
    network = session.post("/network/v2.0/networks", {"network": {"name": name}})["network"]
    subnet = {"network_id": network["id"], "cidr": cidr, "ip_version": 4}
    session.post("/network/v2.0/subnets", {"subnet": subnet})
    return dict(network)


def body(session: Session, network: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    image = session.get("/image/v2/images?name=guest")["images"][0]["id"]
    networks = [{"uuid": network["id"]}] if network else "none"
    fields = {"name": "vm1", "imageRef": image, "flavorRef": "1", "networks": networks, "availability_zone": "nova"}
    fields |= more
    return {"server": {name: value for name, value in fields.items() if value is not None}}


def create(session: Session, network: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    return dict(session.post(SERVERS, body(session, network, **more), V)["server"])


def show(session: Session, server_id: str, version: str = V) -> dict[str, Any]:
    return dict(session.get(f"{SERVERS}/{server_id}", version)["server"])


def act(session: Session, server: dict[str, Any], action: dict[str, Any], version: str = V) -> int:
    return session.call("POST", f"{SERVERS}/{server['id']}/action", action, version).status_code


def test_server_becomes_active_after_the_agents_report(
    admin: Session, agent: ComputeAgent, network: dict[str, Any]
) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3Jx4s4KpkVRTAB0mZ5UuO1nH3sMYXwQyZ9mXW3kUPv me"
    admin.post("/compute/v2.1/os-keypairs", {"keypair": {"name": "k1", "public_key": key, "type": "ssh"}}, V)
    made = create(
        admin, network, key_name="k1", user_data=base64.b64encode(USER_DATA).decode(), metadata={"role": "web"}
    )
    found = show(admin, made["id"])
    assert (found["status"], found["OS-EXT-STS:task_state"]) == ("BUILD", "spawning")
    assert base64.b64decode(found["OS-EXT-SRV-ATTR:user_data"]) == USER_DATA
    assert found["metadata"] == {"role": "web"}
    assert found["key_name"] == "k1"
    assert found["OS-EXT-SRV-ATTR:host"] == "node1"
    (address,) = found["addresses"]["net"]
    assert address["addr"].startswith("192.168.40.")
    port = admin.get(f"/network/v2.0/ports?device_id={made['id']}")["ports"][0]
    assert (port["device_owner"], port["binding:host_id"]) == ("compute:nova", "node1")
    assert agent.servers()[made["id"]]["port_ids"] == [port["id"]]
    agent.report(made["id"])
    found = show(admin, made["id"])
    assert (found["status"], found["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    assert found["OS-SRV-USG:launched_at"]
    assert admin.call("DELETE", f"{SERVERS}/{made['id']}").status_code == 204
    admin.refused(404, "GET", f"{SERVERS}/{made['id']}")
    assert admin.get(f"/network/v2.0/ports?device_id={made['id']}")["ports"] == []


def test_server_is_rebooted_stopped_and_started(admin: Session, agent: ComputeAgent, server: dict[str, Any]) -> None:
    assert act(admin, server, {"reboot": {"type": "SOFT"}}) == 202
    assert show(admin, server["id"])["status"] == "REBOOT"
    assert act(admin, server, {"reboot": {"type": "SOFT"}}) == 409
    agent.report_generation(server["id"], 1)
    assert show(admin, server["id"])["status"] == "REBOOT", "an old generation's report says nothing of the new one"
    agent.report(server["id"])
    assert show(admin, server["id"])["status"] == "ACTIVE"
    assert act(admin, server, {"reboot": {"type": "HARD"}}) == 202
    assert show(admin, server["id"])["status"] == "HARD_REBOOT"
    agent.report(server["id"])
    assert act(admin, server, {"os-stop": None}) == 202
    assert agent.servers()[server["id"]]["wanted_power_state"] == "stopped"
    agent.report(server["id"], "running")
    assert show(admin, server["id"])["OS-EXT-STS:task_state"] == "powering-off"
    agent.report(server["id"], "stopped")
    assert show(admin, server["id"])["status"] == "SHUTOFF"
    assert act(admin, server, {"os-stop": None}) == 409
    assert act(admin, server, {"os-start": None}) == 202
    agent.report(server["id"], "running")
    assert show(admin, server["id"])["status"] == "ACTIVE"
    assert agent.servers()[server["id"]]["boot_generation"] == 4


def test_failed_boot_is_an_error_until_the_next_start(
    admin: Session, agent: ComputeAgent, server: dict[str, Any]
) -> None:
    agent.report(server["id"], "error", "the bridge is on fire")
    found = show(admin, server["id"])
    assert (found["status"], found["fault"]["message"]) == ("ERROR", "the bridge is on fire")
    assert act(admin, server, {"reboot": {"type": "HARD"}}) == 202
    agent.report(server["id"])
    found = show(admin, server["id"])
    assert found["status"] == "ACTIVE"
    assert "fault" not in found


def test_server_without_a_host_has_a_fault(cloud: Cloud, admin: Session, network: dict[str, Any]) -> None:
    made = create(admin, network, host="no-such-host")
    found = show(admin, made["id"])
    assert found["status"] == "ERROR"
    assert found["fault"]["message"].startswith("No valid host was found.")
    assert found["addresses"] == {}
    assert act(admin, made, {"reboot": {"type": "HARD"}}) == 409
    assert admin.call("DELETE", f"{SERVERS}/{made['id']}").status_code == 204


def test_scheduler_chooses_the_host_with_the_fewest_servers_in_the_zone(
    cloud: Cloud, admin: Session, agent: ComputeAgent, network: dict[str, Any]
) -> None:
    ComputeAgent(cloud, "node2", "east")
    ComputeAgent(cloud, "node3", "east")
    first, second = create(admin, network, availability_zone="east"), create(admin, network, availability_zone="east")
    hosts = {show(admin, made["id"])["OS-EXT-SRV-ATTR:host"] for made in (first, second)}
    assert hosts == {"node2", "node3"}
    assert show(admin, first["id"])["OS-EXT-AZ:availability_zone"] == "east"
    zones = admin.get("/compute/v2.1/os-availability-zone")["availabilityZoneInfo"]
    assert {zone["zoneName"] for zone in zones} == {"east", "nova"}
    sentence = admin.refused(400, "POST", SERVERS, body(admin, network, availability_zone="west"), V)
    assert "availability_zone" in sentence


def test_one_request_creates_several_servers(admin: Session, agent: ComputeAgent, network: dict[str, Any]) -> None:
    agent.heartbeat()
    asked = body(admin, network, name="many", min_count=3, return_reservation_id=True)
    reservation = admin.post(SERVERS, asked, V)["reservation_id"]
    found = admin.get(f"{SERVERS}/detail?reservation_id={reservation}&sort_key=launch_index&sort_dir=asc", V)["servers"]
    assert [item["name"] for item in found] == ["many-1", "many-2", "many-3"]
    assert [item["OS-EXT-SRV-ATTR:launch_index"] for item in found] == [0, 1, 2]
    assert [item["OS-EXT-SRV-ATTR:hostname"] for item in found] == ["many-1", "many-2", "many-3"]


def test_requested_ports_fixed_ips_and_tags_are_used(
    admin: Session, agent: ComputeAgent, network: dict[str, Any]
) -> None:
    port = admin.post("/network/v2.0/ports", {"port": {"network_id": network["id"]}})["port"]
    nics = [
        {"port": port["id"], "tag": "mine"},
        {"uuid": network["id"], "fixed_ip": "192.168.40.200", "tag": "made"},
    ]
    made = create(admin, None, networks=nics)
    attached = admin.get(f"{SERVERS}/{made['id']}/os-interface", V)["interfaceAttachments"]
    assert [item["tag"] for item in attached] == ["mine", "made"]
    assert attached[1]["fixed_ips"][0]["ip_address"] == "192.168.40.200"
    sentence = admin.refused(409, "POST", SERVERS, body(admin, None, networks=[{"port": port["id"]}]), V)
    assert "in use" in sentence
    sentence = admin.refused(
        409, "POST", SERVERS, body(admin, None, networks=[{"uuid": network["id"], "fixed_ip": "192.168.40.200"}]), V
    )
    admin.call("DELETE", f"{SERVERS}/{made['id']}")
    kept = admin.get(f"/network/v2.0/ports/{port['id']}")["port"]
    assert (kept["device_id"], kept["binding:host_id"], kept["fixed_ips"]) == ("", "", port["fixed_ips"])
    admin.refused(404, "GET", f"/network/v2.0/ports/{attached[1]['port_id']}")


def test_interface_is_attached_and_detached(admin: Session, server: dict[str, Any], agent: ComputeAgent) -> None:
    other = make_network(admin, "10.9.0.0/24", "other")
    path = f"{SERVERS}/{server['id']}/os-interface"
    nic = admin.post(path, {"interfaceAttachment": {"net_id": other["id"], "tag": "late"}}, V)["interfaceAttachment"]
    assert nic["net_id"] == other["id"]
    assert len(agent.servers()[server["id"]]["port_ids"]) == 2
    assert set(show(admin, server["id"])["addresses"]) == {"net", "other"}
    assert admin.call("DELETE", f"{path}/{nic['port_id']}").status_code == 202
    assert len(agent.servers()[server["id"]]["port_ids"]) == 1
    admin.refused(404, "DELETE", f"{path}/{nic['port_id']}")


def test_deleted_port_is_no_nic_of_its_server(admin: Session, network: dict[str, Any], agent: ComputeAgent) -> None:
    """The port stayed in the list of NICs, and each later boot waited for it until the timeout."""
    ports = [
        admin.post("/network/v2.0/ports", {"port": {"network_id": network["id"], "name": name}})["port"]["id"]
        for name in ("kept", "deleted")
    ]
    nics = [{"port": port_id, "tag": f"tag{place}"} for place, port_id in enumerate(ports)]
    made = create(admin, None, networks=nics)
    assert agent.servers()[made["id"]]["port_ids"] == ports
    assert admin.call("DELETE", f"/network/v2.0/ports/{ports[1]}").status_code == 204
    assert agent.servers()[made["id"]]["port_ids"] == ports[:1]
    attached = admin.get(f"{SERVERS}/{made['id']}/os-interface", V)["interfaceAttachments"]
    assert [nic["port_id"] for nic in attached] == ports[:1]


def test_exhausted_pool_is_rejected(admin: Session, agent: ComputeAgent) -> None:
    small = make_network(admin, "10.8.0.0/30", "small")
    create(admin, small)
    admin.refused(409, "POST", SERVERS, body(admin, small), V)


def test_networks_auto_chooses_the_projects_network(cloud: Cloud, agent: ComputeAgent) -> None:
    user = cloud.member("nina")
    sentence = user.refused(400, "POST", SERVERS, body(user, None, networks="auto"), V)
    assert "networks" in sentence
    one = make_network(user, "10.1.0.0/24", "one")
    made = create(user, None, networks="auto")
    assert user.get(f"{SERVERS}/{made['id']}/os-interface")["interfaceAttachments"][0]["net_id"] == one["id"]
    make_network(user, "10.2.0.0/24", "two")
    user.refused(409, "POST", SERVERS, body(user, None, networks="auto"), V)
    assert "networks" in user.refused(400, "POST", SERVERS, {"server": {**body(user, one)["server"], "networks": 1}}, V)


def test_invalid_input_names_the_field(admin: Session, network: dict[str, Any]) -> None:
    nobody = str(uuid.uuid4())
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("user_data", {"user_data": "%%%"}),
        ("user_data", {"user_data": base64.b64encode(b"x" * 49152).decode()}),
        ("imageRef", {"imageRef": nobody}),
        ("imageRef", {"imageRef": ""}),
        ("flavorRef", {"flavorRef": "huge"}),
        ("key_name", {"key_name": "no such key"}),
        ("networks", {"networks": [{"uuid": nobody}]}),
        ("networks", {"networks": [{"uuid": "test1"}]}),
        ("networks", {"networks": [{"port": nobody}]}),
        ("fixed_ip", {"networks": [{"uuid": network["id"], "fixed_ip": "300.1.1.1"}]}),
        ("security_groups", {"security_groups": [{"name": "no such group"}]}),
        ("metadata", {"metadata": {"k": "v" * 256}}),
        ("name", {"name": ""}),
        ("hostname", {"hostname": "-x-"}),
        ("min_count", {"min_count": 3, "max_count": 2}),
        ("surprise", {"surprise": 1}),
        ("personality", {"personality": []}),
    )
    for field, more in cases:
        assert field in admin.refused(400, "POST", SERVERS, body(admin, network, **more), V), (field, more)
    longest = base64.b64encode(b"x" * 49149).decode()
    assert len(longest) == 65532
    create(admin, network, user_data=longest)


def test_private_flavor_boots_for_administrators_only(cloud: Cloud, admin: Session, agent: ComputeAgent) -> None:
    private = {"name": "gpu", "id": "77", "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": False}
    admin.post("/compute/v2.1/flavors", {"flavor": private})
    user = cloud.member("fritz")
    refused = user.refused(400, "POST", SERVERS, body(user, None, flavorRef="77"), V)
    assert refused == "flavorRef: Flavor 77 could not be found."
    made = create(admin, None, flavorRef="77")
    assert show(admin, made["id"])["flavor"]["original_name"] == "gpu"
    admin.call("DELETE", f"{SERVERS}/{made['id']}")


def test_unsupported_features_are_501(admin: Session, network: dict[str, Any]) -> None:
    volume = [{"boot_index": 0, "uuid": str(uuid.uuid4()), "source_type": "volume", "destination_type": "volume"}]
    for more in ({"block_device_mapping_v2": volume}, {"adminPass": "x"}, {"trusted_image_certificates": ["x"]}):
        assert "openimds" in admin.refused(501, "POST", SERVERS, body(admin, network, **more), V)
    image = body(admin, network)["server"]["imageRef"]
    root = [{"boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "local"}]
    create(admin, network, imageRef=None, block_device_mapping_v2=root)


def test_unsupported_actions_are_rejected(admin: Session, server: dict[str, Any]) -> None:
    path = f"{SERVERS}/{server['id']}/action"
    assert "pause" in admin.refused(501, "POST", path, {"pause": None}, V)
    assert "addFloatingIp" in admin.refused(404, "POST", path, {"addFloatingIp": {"address": "1.2.3.4"}}, V)
    assert "dance" in admin.refused(400, "POST", path, {"dance": None}, V)
    assert "reboot.type" in admin.refused(400, "POST", path, {"reboot": {"type": "gently"}}, V)
    admin.refused(400, "POST", path, {"reboot": {"type": "SOFT"}, "os-stop": None}, V)
    admin.refused(501, "POST", f"{SERVERS}/{server['id']}/remote-consoles", {}, V)


def test_console_output_is_limited_to_its_last_lines(
    admin: Session, agent: ComputeAgent, server: dict[str, Any]
) -> None:
    path = f"{SERVERS}/{server['id']}/action"
    assert admin.post(path, {"os-getConsoleOutput": {}})["output"] == ""
    agent.console(server["id"], "one\ntwo\nthree\n")
    assert admin.post(path, {"os-getConsoleOutput": {"length": None}})["output"] == "one\ntwo\nthree\n"
    assert admin.post(path, {"os-getConsoleOutput": {"length": 2}})["output"] == "two\nthree\n"
    assert admin.post(path, {"os-getConsoleOutput": {"length": 0}})["output"] == ""


def test_metadata_is_changed_by_item_and_as_a_whole(admin: Session, server: dict[str, Any]) -> None:
    path = f"{SERVERS}/{server['id']}/metadata"
    assert admin.post(path, {"metadata": {"a": "1", "b": "2"}})["metadata"] == {"a": "1", "b": "2"}
    assert admin.put(f"{path}/a", {"meta": {"a": "9"}})["meta"] == {"a": "9"}
    assert admin.get(f"{path}/a")["meta"] == {"a": "9"}
    assert admin.call("DELETE", f"{path}/b").status_code == 204
    admin.refused(404, "DELETE", f"{path}/b")
    admin.refused(400, "PUT", f"{path}/a", {"meta": {"z": "9"}})
    assert admin.put(path, {"metadata": {"c": "3"}})["metadata"] == {"c": "3"}
    assert show(admin, server["id"])["metadata"] == {"c": "3"}
    too_many = {f"k{number}": "v" for number in range(129)}
    admin.refused(403, "PUT", path, {"metadata": too_many})


def test_tags_are_added_replaced_and_removed(admin: Session, server: dict[str, Any]) -> None:
    path = f"{SERVERS}/{server['id']}/tags"
    assert admin.put(path, {"tags": ["a", "b"]}, V)["tags"] == ["a", "b"]
    assert admin.call("PUT", f"{path}/c", version=V).status_code == 201
    assert admin.call("PUT", f"{path}/c", version=V).status_code == 204
    assert admin.call("DELETE", f"{path}/a", version=V).status_code == 204
    assert admin.get(path, V)["tags"] == ["b", "c"]
    assert len(admin.get(f"{SERVERS}?tags=b,c", V)["servers"]) == 1
    assert len(admin.get(f"{SERVERS}?tags=b,x", V)["servers"]) == 0
    admin.refused(404, "GET", path, version="2.1")


def test_server_is_updated_locked_and_changes_its_groups(cloud: Cloud, agent: ComputeAgent) -> None:
    user = cloud.member("lena")
    network = make_network(user, "10.7.0.0/24")
    server = create(user, network)
    changed = user.put(f"{SERVERS}/{server['id']}", {"server": {"name": "new", "description": "d"}}, V)["server"]
    assert (changed["name"], changed["description"], changed["OS-EXT-SRV-ATTR:hostname"]) == ("new", "d", "vm1")
    user.refused(400, "PUT", f"{SERVERS}/{server['id']}", {"server": {"hostname": "h"}}, "2.89")
    group = user.post("/network/v2.0/security-groups", {"security_group": {"name": "g1"}})["security_group"]
    assert act(user, server, {"addSecurityGroup": {"name": "g1"}}) == 202
    names = {item["name"] for item in user.get(f"{SERVERS}/{server['id']}/os-security-groups")["security_groups"]}
    assert names == {"default", "g1"}
    port = user.get(f"/network/v2.0/ports?device_id={server['id']}")["ports"][0]
    assert group["id"] in port["security_groups"]
    assert act(user, server, {"removeSecurityGroup": {"name": "g1"}}) == 202
    assert act(user, server, {"lock": None}) == 202
    assert show(user, server["id"])["locked"] is True
    assert "locked" in user.refused(409, "DELETE", f"{SERVERS}/{server['id']}")
    assert act(user, server, {"unlock": None}) == 202
    assert user.call("DELETE", f"{SERVERS}/{server['id']}").status_code == 204


def test_owner_cannot_unlock_what_an_administrator_locked(cloud: Cloud, admin: Session, agent: ComputeAgent) -> None:
    user = cloud.member("lola")
    server = create(user, None)
    path = f"{SERVERS}/{server['id']}"
    assert act(user, server, {"lock": None}) == 202
    assert act(admin, server, {"unlock": None}) == 202  # an administrator unlocks every lock
    assert act(user, server, {"lock": None}) == 202
    assert act(admin, server, {"lock": None}) == 202
    assert act(user, server, {"lock": None}) == 202  # changes nothing
    assert "administrator" in user.refused(403, "POST", f"{path}/action", {"unlock": None})
    assert show(user, server["id"])["locked"] is True
    user.refused(409, "DELETE", path)
    assert act(admin, server, {"unlock": None}) == 202
    assert act(user, server, {"lock": None}) == 202
    assert act(user, server, {"unlock": None}) == 202
    assert user.call("DELETE", path).status_code == 204


def test_rebuild_changes_image_and_attributes(admin: Session, agent: ComputeAgent, server: dict[str, Any]) -> None:
    image = server["image"]["id"]
    asked = {"imageRef": image, "name": "again", "user_data": base64.b64encode(b"two").decode(), "metadata": {"x": "y"}}
    path = f"{SERVERS}/{server['id']}/action"
    assert admin.post(path, {"rebuild": asked}, V)["server"]["status"] == "REBUILD"
    agent.report(server["id"])
    found = show(admin, server["id"])
    assert (found["status"], found["name"], found["metadata"]) == ("ACTIVE", "again", {"x": "y"})
    assert base64.b64decode(found["OS-EXT-SRV-ATTR:user_data"]) == b"two"
    admin.post(path, {"rebuild": {"imageRef": image, "user_data": None}}, V)
    assert show(admin, server["id"])["OS-EXT-SRV-ATTR:user_data"] is None
    assert "user_data" in admin.refused(400, "POST", path, {"rebuild": asked}, "2.56")


def bootable(session: Session, **attributes: str) -> str:
    """Creates an active image. Returns its id."""
    plain = {"name": "i", "container_format": "bare", "disk_format": "raw"}
    image_id = str(session.post("/image/v2/images", plain | attributes)["id"])
    binary = {"Content-Type": "application/octet-stream"}
    uploaded = session.call("PUT", f"/image/v2/images/{image_id}/file", data=b"x", headers=binary)
    assert uploaded.status_code == 204, uploaded.text
    return image_id


def test_kernel_and_ramdisk_count_if_they_are_images_that_the_project_sees(
    cloud: Cloud, admin: Session, agent: ComputeAgent
) -> None:
    agent.heartbeat()
    user = cloud.member("kira")
    own, public, foreign = bootable(user), bootable(admin, visibility="public"), bootable(admin)
    for given, taken in (
        ((own, public), (own, public)),
        ((own.upper(), foreign), (own, "")),
        (("x" * 300, str(uuid.uuid4())), ("", "")),
        (("\x01", ""), ("", "")),
    ):
        image = bootable(user, kernel_id=given[0], ramdisk_id=given[1])
        made = create(user, None, imageRef=bootable(user))
        agent.report(made["id"])
        assert act(user, made, {"rebuild": {"imageRef": image}}) == 202
        for server_id in (create(user, None, imageRef=image)["id"], made["id"]):
            shown = show(admin, server_id)
            assert (shown["OS-EXT-SRV-ATTR:kernel_id"], shown["OS-EXT-SRV-ATTR:ramdisk_id"]) == taken


def test_instance_actions_and_password_are_shown(admin: Session, server: dict[str, Any]) -> None:
    act(admin, server, {"os-stop": None})
    actions = admin.get(f"{SERVERS}/{server['id']}/os-instance-actions", V)["instanceActions"]
    assert [item["action"] for item in actions] == ["stop", "create"]
    one = admin.get(f"{SERVERS}/{server['id']}/os-instance-actions/{actions[0]['request_id']}")["instanceAction"]
    assert one["action"] == "stop"
    path = f"{SERVERS}/{server['id']}/os-server-password"
    assert admin.get(path) == {"password": ""}
    assert admin.call("DELETE", path).status_code == 204


def test_hostname_of_another_projects_port_is_no_dns_name(cloud: Cloud, admin: Session, agent: ComputeAgent) -> None:
    """The host name is not set at the boot or at a later attachment. The server's ports have no DNS name."""
    agent.heartbeat()
    shared = admin.post("/network/v2.0/networks", {"network": {"name": "names", "shared": True}})["network"]
    subnet = {"network_id": shared["id"], "cidr": "10.23.0.0/24", "ip_version": 4}
    admin.post("/network/v2.0/subnets", {"subnet": subnet})
    victim, other = cloud.member("vera"), cloud.member("otis")

    def names(session: Session, server: dict[str, Any]) -> list[str]:
        ports = session.get(f"/network/v2.0/ports?device_id={server['id']}")["ports"]
        return [port["dns_name"] for port in ports]

    assert names(victim, create(victim, shared, name="db")) == ["db"]
    made = create(other, shared, name="DB")
    assert names(other, made) == [""]
    agent.report(made["id"])
    attach = {"interfaceAttachment": {"net_id": shared["id"]}}
    other.post(f"{SERVERS}/{made['id']}/os-interface", attach, V)
    assert names(other, made) == ["", ""]
    assert names(victim, create(victim, shared, name="db")) == ["db"]
    assert names(other, create(other, shared, name="localhost")) == [""]
    assert names(other, create(other, shared, name="host-10-23-0-2")) == [""]
    assert names(other, create(other, shared, name="web")) == ["web"]


def test_port_of_another_project_cannot_be_attached(
    cloud: Cloud, admin: Session, agent: ComputeAgent, server: dict[str, Any]
) -> None:
    """The owner of a network sees ports of other projects on it, but boot and os-interface reject them."""
    other = cloud.member("porter")
    shared = make_network(other, "10.21.0.0/24", "porters")
    port = admin.post("/network/v2.0/ports", {"port": {"network_id": shared["id"]}})["port"]
    assert other.get(f"/network/v2.0/ports/{port['id']}")
    refused = other.refused(400, "POST", SERVERS, body(other, None, networks=[{"port": port["id"]}]), V)
    assert "not usable" in refused
    mine = create(other, shared)
    agent.report(mine["id"])
    attach = {"interfaceAttachment": {"port_id": port["id"]}}
    for session in (other, admin):
        assert "not usable" in session.refused(400, "POST", f"{SERVERS}/{mine['id']}/os-interface", attach, V)
    assert admin.get(f"/network/v2.0/ports/{port['id']}")["port"]["device_id"] == ""
    other.call("DELETE", f"{SERVERS}/{mine['id']}")


def test_forged_port_shows_nowhere_at_the_server(
    cloud: Cloud, admin: Session, network: dict[str, Any], server: dict[str, Any]
) -> None:
    """The port's fields name the server, but only the boot and the attach call attach a port."""
    path = f"{SERVERS}/{server['id']}"
    before = show(admin, server["id"])["addresses"]
    claim = {"network_id": network["id"], "device_id": server["id"], "device_owner": "compute:nova"}
    port = admin.post("/network/v2.0/ports", {"port": claim})["port"]
    assert port["device_id"] == server["id"]
    assert show(admin, server["id"])["addresses"] == before
    assert [nic["port_id"] for nic in admin.get(f"{path}/os-interface", V)["interfaceAttachments"]] != [port["id"]]
    address = port["fixed_ips"][0]["ip_address"]
    assert admin.get(f"{SERVERS}?ip=^{address}$", V)["servers"] == []
    admin.refused(404, "DELETE", f"{path}/os-interface/{port['id']}", None, V)
    admin.call("DELETE", f"/network/v2.0/ports/{port['id']}")


def test_server_of_another_project_is_404(cloud: Cloud, admin: Session, server: dict[str, Any]) -> None:
    user = cloud.member("oleg")
    path = f"{SERVERS}/{server['id']}"
    for method, below, sent in (
        ("GET", "", None), ("PUT", "", {"server": {"name": "x"}}), ("DELETE", "", None),
        ("POST", "/action", {"os-stop": None}), ("GET", "/metadata", None), ("GET", "/os-interface", None),
        ("GET", "/os-server-password", None), ("GET", "/os-instance-actions", None), ("GET", "/ips", None),
        ("PUT", "/tags", {"tags": []}), ("POST", "/os-interface", {}), ("GET", "/os-security-groups", None),
    ):  # fmt: skip
        user.refused(404, method, path + below, sent, V)
    assert user.get(f"{SERVERS}/detail")["servers"] == []
    user.refused(403, "GET", f"{SERVERS}?all_tenants=1")
    assert server["id"] in {item["id"] for item in admin.get(f"{SERVERS}?all_tenants=1")["servers"]}


def test_filters_and_pages_are_applied(cloud: Cloud, agent: ComputeAgent) -> None:
    agent.heartbeat()
    user = cloud.member("page")
    network = make_network(user, "10.6.0.0/24")
    for name in ("a1", "a2", "b1"):
        create(user, network, name=name)

    def names(query: str) -> list[str]:
        return [item["name"] for item in user.get(f"{SERVERS}?{query}", V)["servers"]]

    assert names("sort_key=display_name&sort_dir=asc") == ["a1", "a2", "b1"]
    assert sorted(names("name=^a")) == ["a1", "a2"]
    assert names("status=ACTIVE") == []
    assert len(names("status=BUILD")) == 3
    assert names("status=nonsense") == []
    address = user.get(f"{SERVERS}/detail?name=b1")["servers"][0]["addresses"]["net"][0]["addr"]
    assert names(f"ip=^{address}$") == ["b1"]
    assert names("changes-since=2100-01-01T00:00:00Z") == []
    first = user.get(f"{SERVERS}?limit=2&sort_key=display_name&sort_dir=asc", V)
    following = first["servers_links"][0]["href"].removeprefix(cloud.url)
    assert [item["name"] for item in user.get(following, V)["servers"]] == ["b1"]
    for query, field in (
        ("name=(", "name"), ("marker=nowhere", "marker"), ("sort_key=x", "sort_key"), ("limit=-1", "limit"),
        ("changes-since=yesterday", "changes-since"),
    ):  # fmt: skip
        assert field in user.refused(400, "GET", f"{SERVERS}?{query}")


def test_only_administrators_filter_and_sort_by_host(
    cloud: Cloud, admin: Session, agent: ComputeAgent, server: dict[str, Any]
) -> None:
    user = cloud.member("hugo")
    made = create(user, None)
    for host in ("node1", "node9"):
        assert [item["id"] for item in user.get(f"{SERVERS}?host={host}")["servers"]] == [made["id"]]
    for key in ("host", "node"):
        refused = user.refused(403, "GET", f"{SERVERS}?sort_key=name&sort_key={key}")
        assert refused == f"Only administrators can sort servers by {key}"
    assert server["id"] in {item["id"] for item in admin.get(f"{SERVERS}?host=node1&sort_key=host")["servers"]}
    assert admin.get(f"{SERVERS}?host=node9")["servers"] == []


def test_response_follows_the_microversion(cloud: Cloud, admin: Session, server: dict[str, Any]) -> None:
    answer = admin.call("GET", f"{SERVERS}/{server['id']}", version="2.46")
    assert answer.headers["OpenStack-API-Version"] == "compute 2.46"
    assert "id" in answer.json()["server"]["flavor"]
    assert show(admin, server["id"], "2.47")["flavor"]["original_name"] == "m1.tiny"
    assert "locked" not in show(admin, server["id"], "2.8")
    assert "tags" not in show(admin, server["id"], "2.25")
    assert "maximum" in admin.refused(406, "GET", SERVERS, version="2.999")
    assert "format" in admin.refused(400, "GET", SERVERS, version="two")
    found = admin.call("GET", "/compute/v2.1").json()["version"]
    assert (found["min_version"], found["version"]) == ("2.1", "2.96")


def test_floating_ips_are_shown(admin: Session, server: dict[str, Any], network: dict[str, Any]) -> None:
    outside = {"network": {"name": "outside", "router:external": True}}
    external = admin.post("/network/v2.0/networks", outside)["network"]
    admin.post(
        "/network/v2.0/subnets", {"subnet": {"network_id": external["id"], "cidr": "203.0.113.0/24", "ip_version": 4}}
    )
    gateway = {"router": {"name": "r", "external_gateway_info": {"network_id": external["id"]}}}
    router = admin.post("/network/v2.0/routers", gateway)["router"]
    subnet = admin.get(f"/network/v2.0/subnets?network_id={network['id']}")["subnets"][0]
    admin.put(f"/network/v2.0/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
    port = admin.get(f"/network/v2.0/ports?device_id={server['id']}")["ports"][0]
    asked = {"floatingip": {"floating_network_id": external["id"], "port_id": port["id"]}}
    floating = admin.post("/network/v2.0/floatingips", asked)["floatingip"]
    shown = show(admin, server["id"])["addresses"]["net"]
    assert [(item["addr"], item["OS-EXT-IPS:type"]) for item in shown][1] == (
        floating["floating_ip_address"],
        "floating",
    )


def test_concurrent_creations_succeed(cloud: Cloud, agent: ComputeAgent) -> None:
    agent.heartbeat()
    user = cloud.member("quick")
    network = make_network(user, "10.5.0.0/24")
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda _: create(user, network), range(24)))
    shown = [show(cloud.login(), server["id"]) for server in made]
    assert len({server["addresses"]["net"][0]["addr"] for server in shown}) == 24
    assert len({server["OS-EXT-SRV-ATTR:instance_name"] for server in shown}) == 24
