"""Policy files: what is refused, with the name of the rule, and what is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from openimds.cli.main import openimds
from openimds.control_api.policy.defaults import RULES
from openimds.control_api.policy.files import PolicyError, files_in, read_rules, sample_text


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_rules([file])
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('"create_netwrok": "role:x"', "there is no rule create_netwrok; was create_network meant?"),
        ('"create_network": "role:member and ("', "create_network: 'role:member and (': cannot be parsed"),
        ('"create_network": "! and ("', "create_network: '! and (': cannot be parsed"),
        ('"create_network": "administrator"', "create_network: 'administrator': cannot be parsed"),
        ('"create_network": "rule:adminn"', "there is no rule adminn"),
        ('"create_network": "roles:admin"', "roles is not a property of callers; was role meant?"),
        ('"create_network": "project_id:%(projectid)s"', "was project_id meant?"),
        ('"create_network": "http://judge/decide"', "http: checks are not supported"),
        ('"create_network": "rule:create_network"', "create_network: refers to itself"),
        ('"create_network": 5', "create_network: the check must be text"),
        ("- create_network", "must be a mapping with rules"),
        ('"create_router": "!"\n"create_router": "@"', "line 2: create_router: the file has this rule twice"),
        ('"create_network": "', "is not valid YAML"),
    ],
)
def test_invalid_rule_is_refused_by_name(tmp_path: Path, line: str, named: str) -> None:
    found = problems(tmp_path, line)
    assert len(found) == 1
    assert named in found[0]
    assert str(tmp_path / "policy.yaml") in found[0]


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    assert len(problems(tmp_path, '"create_netwrok": "role:x"\n"create_port": "("\n')) == 2


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        read_rules([tmp_path])


def test_helper_of_another_rule_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"power_user": "role:power"\n"create_router": "rule:context_is_admin or rule:power_user"\n')
    assert "power_user" in read_rules([file])


def test_later_file_overrides_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "policy.d").mkdir()
    for path, check in (
        ("policy.yaml", "role:one"),
        ("policy.d/b.yaml", "role:three"),
        ("policy.d/a.yaml", "role:two"),
    ):
        (tmp_path / path).write_text(f'"create_router": "{check}"\n')
    found = files_in([tmp_path / "policy.yaml"], [[tmp_path / "policy.d"], [tmp_path / "none"]], required=True)
    assert str(read_rules(found)["create_router"]) == "role:three"


def test_missing_default_file_is_accepted(tmp_path: Path) -> None:
    assert files_in([tmp_path / "policy.yaml"], [], required=False) == []


def test_missing_file_that_is_configured_is_refused(tmp_path: Path) -> None:
    """Without the file, the default rules would apply, which can permit more."""
    with pytest.raises(PolicyError, match=r"strict\.yaml"):
        files_in([tmp_path / "strict.yaml"], [], required=True)


def test_sample_has_every_rule_and_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(sample_text().replace('#"', '"'))
    assert {name: str(check) for name, check in read_rules([file]).items()} == {
        name: str(check) for name, check in read_rules([]).items()
    }
    assert all(f'"{rule.name}":' in file.read_text() for rule in RULES)


def test_every_default_rule_has_a_description() -> None:
    assert [rule.name for rule in RULES if not (rule.description or "").endswith(".")] == []


def test_command_line_prints_the_sample() -> None:
    assert CliRunner().invoke(openimds, ["config", "sample", "policy.yaml"]).output == sample_text()


@pytest.mark.parametrize("checked", ["policy.yaml", "nova.conf"])
def test_command_line_refuses_an_invalid_file(tmp_path: Path, checked: str) -> None:
    """The file of rules is also checked with the configuration file that refers to it."""
    (tmp_path / "policy.yaml").write_text('"create_netwrok": "role:x"\n')
    (tmp_path / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n[control_api]\nport = 5000\n")
    result = CliRunner().invoke(openimds, ["config", "validate", str(tmp_path / checked)])
    assert result.exit_code == 1
    assert "create_netwrok" in result.output


def test_command_line_accepts_a_valid_file(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text('"create_network": "role:power or rule:context_is_admin"\n')
    result = CliRunner().invoke(openimds, ["config", "validate", str(tmp_path / "policy.yaml")])
    assert (result.exit_code, result.output) == (0, "no errors, no warnings\n")


def test_rules_of_nova_beside_its_own_configuration_are_not_checked(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text('"os_compute_api:os-shelve:shelve": "role:x"\n')
    (tmp_path / "nova.conf").write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    assert CliRunner().invoke(openimds, ["config", "validate", str(tmp_path / "nova.conf")]).exit_code == 0
