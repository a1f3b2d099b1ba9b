"""Decisions of the policy about callers, and the reload of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.control_api.policy.enforcer import Credentials, Policy, default_policy
from openimds.control_api.policy.files import PolicyError


def caller(*roles: str, project: str = "p1") -> Credentials:
    return Credentials(user_id="u1", project_id=project, roles=frozenset(roles))


def of(project: str) -> dict[str, str]:
    return {"project_id": project, "tenant_id": project}


@pytest.mark.parametrize(
    ("roles", "project", "permitted"),
    [
        (("member",), "p1", True),
        (("member", "reader"), "p1", True),
        (("service",), "p2", True),
        (("admin",), "p2", True),
        (("reader",), "p1", False),
        ((), "p1", False),
        (("member",), "p2", False),
        (("administrator",), "p1", False),
    ],
)
def test_member_acts_in_its_own_project_only(roles: tuple[str, ...], project: str, permitted: bool) -> None:
    assert default_policy().permits(caller(*roles), "create_network", of(project)) is permitted


@pytest.mark.parametrize("project", ["", "None"])
def test_token_without_a_project_owns_nothing(project: str) -> None:
    """Neither a resource without a project nor one of a project with the name of Python's null."""
    assert not default_policy().permits(caller("member", project=""), "create_network", of(project))


def test_unknown_rule_is_an_error() -> None:
    with pytest.raises(KeyError):
        default_policy().permits(caller("admin"), "create_netwrok", {})


def test_file_overrides_a_default_rule(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"create_network": "role:power"\n')
    policy = Policy(lambda: [file])
    assert policy.permits(caller("power"), "create_network", of("p1"))
    assert not policy.permits(caller("member"), "create_network", of("p1"))


def test_reload_applies_to_decisions_that_were_made_before(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    policy = Policy(lambda: [file] if file.exists() else [])
    assert policy.permits(caller("member"), "create_network", of("p1"))
    file.write_text('"create_network": "!"\n')
    policy.reload()
    assert not policy.permits(caller("member"), "create_network", of("p1"))


def test_reload_of_an_invalid_file_keeps_the_rules_in_force(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"create_network": "role:power"\n')
    policy = Policy(lambda: [file])
    file.write_text('"create_network": "role:member and ("\n')
    policy.reload()
    assert policy.permits(caller("power"), "create_network", of("p1"))
    assert not policy.permits(caller("member"), "create_network", of("p1"))


def test_invalid_file_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"create_network": "rule:nobody"\n')
    with pytest.raises(PolicyError, match="nobody"):
        Policy(lambda: [file])


def test_bulk_request_makes_each_decision_once() -> None:
    """A check takes up to 350 µs, in the transaction that has the write lock."""
    policy = Policy()
    for _ in range(500):
        policy.permits(caller("member"), "create_port", of("p1"))
    info = policy._decide.cache_info()  # type: ignore[attr-defined]
    assert (info.misses, info.hits) == (1, 499)


def test_check_in_force_is_the_one_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"identity:create_user": "role:power"\n')
    assert Policy(lambda: [file]).check_text("identity:create_user") == "role:power"
    assert default_policy().check_text("identity:create_user") == "rule:context_is_admin"
