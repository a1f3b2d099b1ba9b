from __future__ import annotations

from pathlib import Path

import pytest

from openimds.config.ini_reader import IniEntry
from openimds.config.programs import PROGRAMS, all_sections
from openimds.config.validator import Finding, known_names, nearest_name, validate_files


def findings(path: Path, program: str | None = None) -> list[tuple[str, str]]:
    return [
        (finding.level, finding.sentence.removeprefix(f"{path}, "))
        for finding in validate_files([str(path)], PROGRAMS, program)
    ]


def test_valid_file_has_no_findings(tmp_path: Path) -> None:
    path = tmp_path / "l3_agent.ini"
    path.write_text("[DEFAULT]\nenable_metadata_proxy = True\n")
    assert findings(path) == []


def test_unknown_option_is_a_warning_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "dhcp_agent.ini"
    path.write_text("[DEFAULT]\nforce_metadta = True\nquite_different = 1\nenable_metadata_proxy = True\n")
    assert findings(path) == [
        (
            Finding.WARNING,
            "line 2: [DEFAULT] force_metadta is not read by dhcp-agent; was [DEFAULT] force_metadata meant?",
        ),
        (Finding.WARNING, "line 3: [DEFAULT] quite_different is not read by dhcp-agent"),
        (
            Finding.WARNING,
            "line 4: [DEFAULT] enable_metadata_proxy is not read by dhcp-agent (another program reads it)",
        ),
    ]


def test_value_out_of_range_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nova.conf"
    path.write_text("[DEFAULT]\nmetadata_workers = 0\n")
    ((level, sentence),) = findings(path)
    assert level == Finding.ERROR
    assert sentence.startswith("line 2: [DEFAULT] metadata_workers: is not valid")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("metadata_workers = many", "'many' is not an integer"),
        ("force_metadata = perhaps", "'perhaps' is neither true nor false"),
    ],
)
def test_invalid_value_is_reported_in_plain_words(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"[DEFAULT]\n{line}\n")
    ((_, sentence),) = findings(path)
    assert sentence == f"line 2: [DEFAULT] {line.split(maxsplit=1)[0]}: is not valid: {reason}"


def test_missing_required_option_is_an_error_only_for_files_that_are_read_together(tmp_path: Path) -> None:
    path = tmp_path / "dhcp_agent.ini"
    path.write_text("[DEFAULT]\nforce_metadata = True\n")
    assert findings(path) == []
    together = validate_files([str(path)], PROGRAMS, "dhcp-agent")
    assert any("auth_url is not set" in finding.sentence for finding in together)


@pytest.mark.parametrize(
    "name",
    # Other options of nova.conf and neutron's files, none of which resembles an option of openimds.
    ["debug_mode", "osapi_compute_listen", "ovs_integration_bridge", "agent_mode", "compute_driver", "core_plugin",
     "service_plugins", "allow_overlapping_ips", "ha_vrrp_auth_type", "metadata_host_path", "connection_debug"],
)  # fmt: skip
def test_other_options_of_nova_and_neutron_are_not_misspellings(name: str) -> None:
    found = IniEntry("f", 1, "DEFAULT", name)
    assert nearest_name(found, known_names(all_sections())) is None


@pytest.mark.parametrize(
    ("section", "option", "expected"),
    [
        ("neutron", "service_metadata_porxy", ("neutron", "service_metadata_proxy")),
        ("neutron", "metadata_proxy_shared_secrete", ("neutron", "metadata_proxy_shared_secret")),
        ("DEFAULT", "nova_metadata_hots", ("DEFAULT", "nova_metadata_host")),
        ("default", "force_metadata", ("DEFAULT", "force_metadata")),
        ("DEFAULT", "enable_isolated_metedata", ("DEFAULT", "enable_isolated_metadata")),
    ],
)
def test_misspellings_are_recognized(section: str, option: str, expected: tuple[str, str]) -> None:
    assert nearest_name(IniEntry("f", 1, section, option), known_names(all_sections())) == expected


def test_file_with_another_name_is_checked_against_all_programs(tmp_path: Path) -> None:
    path = tmp_path / "mine.conf"
    path.write_text("[DEFAULT]\nmetadata_workers = 2\n[metadata_rate_limiting]\nrate_limit_enabled = maybe\n")
    assert [(level, "rate_limit_enabled" in sentence) for level, sentence in findings(path)] == [(Finding.ERROR, True)]
    path.write_text("[DEFAULT]\nmetadata_workers = 2\nmetadata_workrs = 2\n")
    (only,) = findings(path)
    assert only[1].endswith("was [DEFAULT] metadata_workers meant?")
