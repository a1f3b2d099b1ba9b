"""policy.yaml beside nova.conf: the override of rules, and their reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.contract.control.stage import Cloud

from openimds.config import load_control_api
from openimds.programs.control_api import wiring
from openimds.runtime.lifecycle import StartupError

NETWORKS = "/network/v2.0/networks"
SERVERS = "/compute/v2.1/servers/detail?all_tenants=1"


@pytest.fixture
def rules(cloud: Cloud) -> Iterator[Path]:
    """The file of rules, which is absent before and after the test."""
    file = cloud.state / "policy.yaml"
    yield file
    file.unlink(missing_ok=True)
    cloud.reload()


def test_rule_of_an_attribute_is_overridden(cloud: Cloud, rules: Path) -> None:
    member = cloud.member("alice")
    shared = {"network": {"name": "n", "shared": True}}
    member.refused(403, "POST", NETWORKS, shared)
    rules.write_text('"create_network:shared": "rule:project_member"\n')
    cloud.reload()
    assert member.post(NETWORKS, shared)["network"]["shared"] is True
    member.refused(403, "POST", NETWORKS, {"network": {"name": "n", "router:external": True}})


def test_rule_of_an_action_is_made_stricter(cloud: Cloud, rules: Path) -> None:
    member = cloud.member("bob")
    network = member.post(NETWORKS, {"network": {"name": "n"}})["network"]["id"]
    rules.write_text('"delete_network": "rule:context_is_admin"\n"os_compute_api:os-keypairs:create": "!"\n')
    cloud.reload()
    assert "delete_network" in member.refused(403, "DELETE", f"{NETWORKS}/{network}")
    keypair = {"keypair": {"name": "k"}}
    assert "os-keypairs:create" in member.refused(403, "POST", "/compute/v2.1/os-keypairs", keypair)
    assert cloud.login().call("DELETE", f"{NETWORKS}/{network}").status_code == 204


def test_role_of_the_operator_gets_the_view_of_an_administrator(cloud: Cloud, rules: Path) -> None:
    member = cloud.member("carol")
    member.refused(403, "GET", SERVERS)
    rules.write_text('"os_compute_api:servers:detail:get_all_tenants": "role:member"\n')
    cloud.reload()
    assert member.get(SERVERS) == {"servers": []}


def test_invalid_file_keeps_the_rules_in_force(cloud: Cloud, rules: Path) -> None:
    member = cloud.member("dave")
    rules.write_text('"create_network": "!"\n')
    cloud.reload()
    rules.write_text('"create_network": "role:member and ("\n')
    cloud.reload()
    member.refused(403, "POST", NETWORKS, {"network": {"name": "n"}})


@pytest.mark.parametrize(
    ("option", "named"), [("", "create_netwrok"), ("[oslo_policy]\npolicy_file = strict.yaml\n", r"strict\.yaml")]
)
def test_program_does_not_start_without_a_valid_file(cloud: Cloud, tmp_path: Path, option: str, named: str) -> None:
    (tmp_path / "policy.yaml").write_text('"create_netwrok": "!"\n')
    (tmp_path / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n{option}")
    config = load_control_api([str(tmp_path / "nova.conf")])
    with pytest.raises(StartupError, match=named):
        wiring.build_parts(config, cloud.store, CollectorRegistry())


def test_policy_beside_an_earlier_configuration_file_is_used(cloud: Cloud, tmp_path: Path) -> None:
    """`up --config-file mine/nova.conf` switched the rules in the state folder off."""
    for name in ("state", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    (tmp_path / "state/policy.yaml").write_text('"create_netwrok": "!"\n')
    config = load_control_api([str(tmp_path / name / "nova.conf") for name in ("state", "mine")])
    with pytest.raises(StartupError, match=r"state/policy\.yaml"):
        wiring.build_parts(config, cloud.store, CollectorRegistry())
    (tmp_path / "mine/policy.yaml").write_text('"create_wrong": "!"\n')
    with pytest.raises(StartupError, match=r"mine/policy\.yaml"):
        wiring.build_parts(config, cloud.store, CollectorRegistry())
