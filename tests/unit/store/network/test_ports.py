"""Ports: addresses, MACs, bindings, permissions, DNS names."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from tests.callers import network_caller

from openimds.resources.caller import SYSTEM
from openimds.resources.errors import BadRequest, Conflict, Forbidden, NotFound, OpenimdsError
from openimds.resources.network import BINDING_ATTRIBUTE, Attachment
from openimds.store.engine import utc_now
from openimds.store.models.network import IPAllocation
from openimds.store.network import ports
from openimds.store.network.network_store import NetworkStore

HOST = {"binding__host_id": "node1", "device_owner": "compute:nova", "device_id": "vm"}


def addresses(port: dict[str, Any]) -> list[str]:
    return [ip["ip_address"] for ip in port["fixed_ips"]]


def test_port_has_defaults(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    port = cloud.make("port", network_id=network["id"])
    assert addresses(port) == ["10.0.0.2"]
    assert port["mac_address"].startswith("fa:16:3e:")
    assert port["status"] == "DOWN"
    assert port["port_security_enabled"] is True
    assert len(port["security_groups"]) == 1
    assert "binding:host_id" not in port


def test_port_gets_the_lowest_free_address(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    made = [cloud.make("port", network_id=network["id"]) for _ in range(9)]
    assert [addresses(port)[0] for port in made] == [f"10.0.0.{n}" for n in range(2, 11)]
    cloud.remove("port", made[3]["id"])
    cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.11"}])
    assert addresses(cloud.make("port", network_id=network["id"])) == ["10.0.0.5"]
    assert addresses(cloud.make("port", network_id=network["id"])) == ["10.0.0.12"]


def test_exhausted_pool_is_a_conflict_until_another_subnet_is_added(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/29")
    for _ in range(5):
        cloud.make("port", network_id=network["id"])
    with pytest.raises(Conflict, match="No more IP addresses available on network") as caught:
        cloud.make("port", network_id=network["id"])
    assert caught.value.kind == "IpAddressGenerationFailure"
    cloud.make("subnet", network_id=network["id"], cidr="10.1.0.0/29")
    assert addresses(cloud.make("port", network_id=network["id"])) == ["10.1.0.2"]


def test_addresses_of_a_large_pool_are_allocated_in_order(cloud: Any) -> None:
    network, _ = cloud.net("2001:db8::/64", ipv6_address_mode=None)
    for expected in range(2, 40):
        assert addresses(cloud.make("port", network_id=network["id"])) == [f"2001:db8::{expected:x}"]


def test_port_gets_an_address_of_each_version(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    cloud.make("subnet", network_id=network["id"], cidr="2001:db8::/64")
    assert addresses(cloud.make("port", network_id=network["id"])) == ["10.0.0.2", "2001:db8::2"]


def test_fixed_ips_are_given_by_subnet_or_address_or_not_at_all(cloud: Any) -> None:
    network, subnet = cloud.net("10.0.0.0/24")
    other = cloud.make("subnet", network_id=network["id"], cidr="10.1.0.0/24")
    wanted = [{"subnet_id": other["id"]}, {"ip_address": "10.0.0.77"}, {"subnet_id": subnet["id"]}]
    port = cloud.make("port", network_id=network["id"], fixed_ips=wanted)
    assert addresses(port) == ["10.1.0.2", "10.0.0.77", "10.0.0.2"]
    assert cloud.make("port", network_id=network["id"], fixed_ips=[])["fixed_ips"] == []


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"ip_address": "10.9.0.1"}, "InvalidIpForNetwork"),
        ({"ip_address": "10.0.0.255"}, "InvalidIpForSubnet"),
        ({"ip_address": "10.0.0.0"}, "InvalidIpForSubnet"),
        ({"subnet_id": "7f6a1f9e-0000-4000-8000-000000000000"}, "InvalidInput"),
    ],
)
def test_invalid_fixed_ip_is_refused(cloud: Any, entry: dict[str, str], kind: str) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    with pytest.raises(BadRequest, match="fixed_ips") as caught:
        cloud.make("port", network_id=network["id"], fixed_ips=[entry])
    assert caught.value.kind == kind


def test_address_and_mac_in_use_are_conflicts(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    wanted = {"fixed_ips": [{"ip_address": "10.0.0.50"}], "mac_address": "fa:16:3e:00:00:01"}
    cloud.make("port", network_id=network["id"], **wanted)
    with pytest.raises(Conflict, match=r"10\.0\.0\.50 already allocated"):
        cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.50"}])
    with pytest.raises(Conflict, match="mac address fa:16:3e:00:00:01 is in use"):
        cloud.make("port", network_id=network["id"], mac_address="fa:16:3e:00:00:01")
    other, _ = cloud.net("10.0.0.0/24")
    assert cloud.make("port", network_id=other["id"], **wanted)["mac_address"] == "fa:16:3e:00:00:01"


def test_concurrent_ports_get_different_addresses(cloud: Any) -> None:
    network, _ = cloud.net("10.0.0.0/24")
    got: list[str] = []

    def take() -> None:
        for _ in range(5):
            got.extend(addresses(cloud.make("port", network_id=network["id"])))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=lambda a: int(a.rsplit(".", 1)[1])) == [f"10.0.0.{n}" for n in range(2, 42)]


def test_change_by_subnet_does_not_change_the_address(cloud: Any) -> None:
    network, subnet = cloud.net("10.0.0.0/24")
    port = cloud.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.9"}])
    kept = cloud.change("port", port["id"], fixed_ips=[{"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.20"}])
    assert addresses(kept) == ["10.0.0.9", "10.0.0.20"]
    assert addresses(cloud.change("port", port["id"], fixed_ips=[{"ip_address": "10.0.0.20"}])) == ["10.0.0.20"]
    assert cloud.change("port", port["id"], fixed_ips=[])["fixed_ips"] == []


class TestProvisioning:
    def test_port_of_an_instance_is_active_after_both_reports(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        assert port["binding:vif_type"] == "bridge"
        for entity, status in (("l2", "DOWN"), ("l2", "DOWN"), ("dhcp", "ACTIVE"), ("dhcp", "ACTIVE")):
            self.report(cloud, port["id"], entity)
            assert cloud.show("port", port["id"])["status"] == status

    def test_port_without_dhcp_is_active_after_the_l2_report(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net(enable_dhcp=False)
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        self.report(cloud, port["id"], "l2")
        assert cloud.show("port", port["id"])["status"] == "ACTIVE"

    def test_unplugged_port_is_down_until_it_is_plugged_again(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        with cloud.store.write() as session:
            ports.unplugged(session, port["id"])
        assert cloud.show("port", port["id"])["status"] == "DOWN"
        self.report(cloud, port["id"], "l2")
        assert cloud.show("port", port["id"])["status"] == "ACTIVE"

    def test_port_is_active_only_while_it_is_bound(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = cloud.make("port", network_id=network["id"])
        self.report(cloud, port["id"], "l2")
        assert cloud.show("port", port["id"])["status"] == "DOWN"
        operator.change("port", port["id"], **HOST)
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        assert cloud.show("port", port["id"])["status"] == "ACTIVE"
        freed = operator.change("port", port["id"], binding__host_id=None, device_id="", device_owner="")
        assert (freed["status"], freed["binding:vif_type"]) == ("DOWN", "unbound")

    def test_dhcp_port_of_an_agent_is_active_after_its_report(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make(
            "port", network_id=network["id"], device_owner="network:dhcp", binding__host_id="node1", device_id="dhcp1"
        )
        assert port["project_id"] == cloud.caller.project_id
        assert port["security_groups"] == []
        self.report(cloud, port["id"], "l2")
        assert cloud.show("port", port["id"])["status"] == "ACTIVE"

    def test_report_of_an_earlier_binding_has_no_effect(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        earlier = port[BINDING_ATTRIBUTE]["generation"]
        operator.change("port", port["id"], binding__host_id="node2")
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity, earlier)
        with cloud.store.write() as session:
            ports.unplugged(session, port["id"], earlier)
        shown = operator.show("port", port["id"])
        assert (shown["status"], shown[BINDING_ATTRIBUTE]["provisioning_blocks"]) == ("DOWN", ["l2", "dhcp"])
        current = shown[BINDING_ATTRIBUTE]["generation"]
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity, current)
        assert operator.show("port", port["id"])["status"] == "ACTIVE"
        with cloud.store.write() as session:
            ports.unplugged(session, port["id"], earlier)
        assert operator.show("port", port["id"])["status"] == "ACTIVE"

    def test_new_addresses_while_provisioning_await_new_reports(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        self.report(cloud, port["id"], "dhcp")
        cloud.change("port", port["id"], fixed_ips=[{"ip_address": "10.0.0.77"}])
        shown = operator.show("port", port["id"])[BINDING_ATTRIBUTE]
        assert shown["provisioning_blocks"] == ["l2", "dhcp"]
        assert shown["generation"] > port[BINDING_ATTRIBUTE]["generation"]

    def test_new_addresses_of_an_active_port_leave_it_active(self, cloud: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        assert cloud.change("port", port["id"], fixed_ips=[{"ip_address": "10.0.0.77"}])["status"] == "ACTIVE"

    def test_port_that_is_administratively_down_is_never_active(self, cloud: Any, operator: Any) -> None:
        """Such a port stayed ACTIVE. Neutron shows DOWN, and ACTIVE after the agents have reported the port again."""
        network, _ = cloud.net()
        port = operator.make("port", network_id=network["id"], project_id=cloud.caller.project_id, **HOST)
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        assert cloud.change("port", port["id"], admin_state_up=False)["status"] == "DOWN"
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        assert cloud.show("port", port["id"])["status"] == "DOWN"
        assert cloud.change("port", port["id"], admin_state_up=True)["status"] == "DOWN"
        for entity in ("l2", "dhcp"):
            self.report(cloud, port["id"], entity)
        assert cloud.show("port", port["id"])["status"] == "ACTIVE"

    @staticmethod
    def report(cloud: Any, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        with cloud.store.write() as session:
            ports.provisioned(session, port_id, entity, binding_generation)


class TestRights:
    def test_port_of_another_project_is_not_found(self, cloud: Any, stranger: Any, operator: Any) -> None:
        network, _ = cloud.net()
        port = cloud.make("port", network_id=network["id"], name="p")
        for call in (
            lambda: stranger.show("port", port["id"]),
            lambda: stranger.change("port", port["id"], name="mine"),
            lambda: stranger.remove("port", port["id"]),
            lambda: stranger.make("port", network_id=network["id"]),
        ):
            with pytest.raises(NotFound, match="could not be found"):
                call()
        assert stranger.names("port") == []
        assert operator.names("port") == ["p"]

    def test_attributes_of_the_owner_are_refused_on_a_shared_network(self, operator: Any, stranger: Any) -> None:
        network = operator.make("network", name="shared", shared=True, project_id="owner")
        operator.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
        port = stranger.make("port", network_id=network["id"])
        for wanted in (
            {"mac_address": "fa:16:3e:00:00:07"},
            {"fixed_ips": [{"ip_address": "10.0.0.66"}]},
            {"device_owner": "network:dhcp"},
            {"port_security_enabled": False},
            {"allowed_address_pairs": [{"ip_address": "10.0.0.1"}]},
        ):
            with pytest.raises(Forbidden, match=r"only (the owner of network|an administrator or a service)"):
                stranger.make("port", network_id=network["id"], **wanted)
            with pytest.raises((Forbidden, Conflict)):
                stranger.change("port", port["id"], **wanted)
        kept = [{"subnet_id": port["fixed_ips"][0]["subnet_id"], "ip_address": port["fixed_ips"][0]["ip_address"]}]
        assert stranger.change("port", port["id"], fixed_ips=kept, name="n")["name"] == "n"

    def test_binding_is_refused_for_members(self, cloud: Any) -> None:
        network, _ = cloud.net()
        with pytest.raises(Forbidden, match="binding:host_id"):
            cloud.make("port", network_id=network["id"], binding__host_id="node1")

    def test_port_on_an_external_network_is_refused(self, cloud: Any) -> None:
        network, _ = cloud.outside()
        with pytest.raises(Forbidden, match="external and not shared"):
            cloud.make("port", network_id=network["id"])

    def test_project_id_of_another_project_needs_an_administrator(self, cloud: Any, operator: Any) -> None:
        with pytest.raises(Forbidden, match="project_id"):
            cloud.make("network", project_id="somebody")
        assert operator.make("network", project_id="somebody")["project_id"] == "somebody"
        with pytest.raises(BadRequest, match="must contain project_id"):
            operator.make("network", name="nobodys")


class TestDnsNames:
    @pytest.fixture
    def shared(self, operator: Any) -> str:
        """A network that all projects use."""
        network = operator.make("network", name="shared", shared=True, project_id="op")["id"]
        operator.make("subnet", network_id=network, cidr="10.0.0.0/24", project_id="op")
        operator.make("subnet", network_id=network, cidr="2001:db8::/64", project_id="op")
        return str(network)

    @pytest.mark.parametrize("spelling", ["db", "DB", "db."])
    def test_name_of_another_projects_port_is_a_conflict(
        self, cloud: Any, stranger: Any, operator: Any, shared: str, spelling: str
    ) -> None:
        victim = cloud.make("port", network_id=shared, dns_name="db")
        with pytest.raises(Conflict, match="dns_name"):
            stranger.make("port", network_id=shared, dns_name=spelling)
        other = stranger.make("port", network_id=shared, dns_name="web")
        for caller in (stranger, operator):
            with pytest.raises(Conflict, match="dns_name"):
                caller.change("port", other["id"], dns_name=spelling)
        assert stranger.show("port", other["id"])["dns_name"] == "web"
        assert cloud.change("port", victim["id"], dns_name="db", name="x")["dns_name"] == "db"
        cloud.change("port", victim["id"], dns_name="")
        assert stranger.change("port", other["id"], dns_name=spelling)["dns_name"] == spelling

    def test_name_is_permitted_for_own_ports_and_on_other_networks(
        self, cloud: Any, stranger: Any, shared: str
    ) -> None:
        cloud.make("port", network_id=shared, dns_name="db")
        assert cloud.make("port", network_id=shared, dns_name="db")["dns_name"] == "db"
        network, _ = stranger.net("10.1.0.0/24")
        assert stranger.make("port", network_id=network["id"], dns_name="db")["dns_name"] == "db"

    @pytest.mark.parametrize(
        "name",
        [
            "localhost",
            "LOCALHOST",
            "wpad",
            "wpad.",
            "isatap",
            "instance-data",
            "Data-Server",
            "host-10-0-0-2",
            "Host-10-0-0-2",
            "host-2001-db8--2",
        ],
    )
    def test_reserved_and_default_names_are_refused(self, cloud: Any, operator: Any, shared: str, name: str) -> None:
        for caller in (cloud, operator):
            fixed = {"network_id": shared, "fixed_ips": [{"ip_address": "10.0.0.9"}], "project_id": "op"}
            attributes = fixed if caller is operator else {"network_id": shared, "fixed_ips": []}
            with pytest.raises(BadRequest) as caught:
                caller.make("port", dns_name=name, **attributes)
            assert caught.value.field == "dns_name"
        port = cloud.make("port", network_id=shared, fixed_ips=[])
        with pytest.raises(BadRequest) as caught:
            cloud.change("port", port["id"], dns_name=name)
        assert caught.value.field == "dns_name"

    @pytest.mark.parametrize("name", ["deb.debian.org", "v2.openstacklocal.", "169.254.169.254", "a.b"])
    def test_name_of_several_labels_is_refused(self, cloud: Any, shared: str, name: str) -> None:
        with pytest.raises(BadRequest, match="more than one label"):
            cloud.make("port", network_id=shared, dns_name=name)
        port = cloud.make("port", network_id=shared)
        with pytest.raises(BadRequest, match="more than one label"):
            cloud.change("port", port["id"], dns_name=name)

    @pytest.mark.parametrize("name", ["host-1", "host-10-0-0", "host-a-b-c-d", "host", "host-10-0-0-256", "wpad2"])
    def test_similar_names_are_accepted(self, cloud: Any, shared: str, name: str) -> None:
        assert cloud.make("port", network_id=shared, dns_name=name)["dns_name"] == name

    def test_default_name_is_refused_without_its_address(self, cloud: Any) -> None:
        network, _ = cloud.net("10.0.0.0/24")
        cloud.make("subnet", network_id=network["id"], cidr="2001:db8::/64")
        both = [{"ip_address": "10.0.0.9"}, {"ip_address": "2001:db8::5"}]
        port = cloud.make("port", network_id=network["id"], fixed_ips=both, dns_name="host-10-0-0-9")
        cloud.change("port", port["id"], dns_name="host-2001-db8--5")
        with pytest.raises(BadRequest) as caught:
            cloud.change("port", port["id"], fixed_ips=both[:1])
        assert caught.value.field == "dns_name"
        cloud.change("port", port["id"], fixed_ips=both[:1], dns_name="host-10-0-0-9")


def test_port_without_port_security_has_no_security_groups(cloud: Any, stranger: Any) -> None:
    network, _ = cloud.net()
    mine = cloud.make("security_group", name="web")
    theirs = stranger.make("security_group", name="web")
    port = cloud.make("port", network_id=network["id"], security_groups=[mine["id"]])
    assert port["security_groups"] == [mine["id"]]
    with pytest.raises(NotFound, match="Security group"):
        cloud.make("port", network_id=network["id"], security_groups=[theirs["id"]])
    with pytest.raises(Conflict, match="in use"):
        cloud.remove("security_group", mine["id"])
    with pytest.raises(BadRequest, match="security_groups"):
        cloud.change("port", port["id"], port_security_enabled=False)
    off = cloud.change("port", port["id"], port_security_enabled=False, security_groups=[])
    assert off["port_security_enabled"] is False
    with pytest.raises(Conflict, match="Port Security must be enabled"):
        cloud.change("port", port["id"], allowed_address_pairs=[{"ip_address": "10.0.0.9"}])
    cloud.remove("security_group", mine["id"])


def test_extra_dhcp_options_are_merged(cloud: Any) -> None:
    network, _ = cloud.net()
    one = {"opt_name": "bootfile-name", "opt_value": "a", "ip_version": 4}
    two = {"opt_name": "tftp-server", "opt_value": "b", "ip_version": 4}
    port = cloud.make("port", network_id=network["id"], extra_dhcp_opts=[one])
    assert cloud.change("port", port["id"], extra_dhcp_opts=[two])["extra_dhcp_opts"] == [one, two]
    gone = {**one, "opt_value": None}
    assert cloud.change("port", port["id"], extra_dhcp_opts=[gone])["extra_dhcp_opts"] == [two]


def test_port_is_created_in_the_transaction_of_the_caller(cloud: Any) -> None:
    """Several ports of one transaction are created all or not at all, with one revision."""
    network, _ = cloud.net()
    before = cloud.store.revision()

    def make_a_server_that_fails() -> None:
        with cloud.store.write() as session:
            ports.create_port(session, cloud.caller, {"network_id": network["id"]}, utc_now())
            raise RuntimeError("the server could not be made")

    with pytest.raises(RuntimeError, match="the server could not be made"):
        make_a_server_that_fails()
    assert (cloud.names("port"), cloud.store.revision()) == ([], before)
    with cloud.store.write() as session:
        for _ in range(3):
            port = ports.create_port(session, SYSTEM, {"network_id": network["id"], "project_id": "p"}, utc_now())
            ports.attach_port(session, port, Attachment("compute:nova", "vm1"), host="node1")
        assert [p.provisioning for p in ports.ports_of_device(session, "vm1")] == [["l2", "dhcp"]] * 3
    assert cloud.store.revision() == before + 1
    with cloud.store.write() as session:
        for port in ports.ports_of_device(session, "vm1"):
            ports.delete_port(session, port.id, utc_now())
        ports.delete_port(session, "gone-already", utc_now())
    with cloud.store.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(IPAllocation)) == 0


def test_creation_beyond_the_quota_is_refused(store: Any) -> None:
    limited = NetworkStore(store, limits={"network": 2})
    caller = network_caller("p")
    limited.create("network", caller, [{"name": "1"}, {"name": "2"}])
    with pytest.raises(OpenimdsError, match="Quota exceeded for resources: \\['network'\\]"):
        limited.create("network", caller, [{"name": "3"}])
    assert limited.quota_details(caller, "p") == {"network": {"limit": 2, "used": 2, "reserved": 0}}
