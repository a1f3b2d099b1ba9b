from __future__ import annotations

from pathlib import Path

import pytest

from openimds.config.ini_reader import IniEntry
from openimds.config.programs import PROGRAMS, all_sections, load_dhcp_agent
from openimds.config.validator import Finding, known_names, nearest_name, openstack_options, validate_files


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


NOVA_CONF = """\
[DEFAULT]
enabled_apis = osapi_compute,metadata
transport_url = rabbit://u:p@controller
my_ip = 10.0.0.11
report_interval = 10
osapi_compute_workers = 4
metadata_workers = 4
[api]
auth_strategy = keystone
[api_database]
connection = mysql+pymysql://nova:p@controller/nova_api
[database]
connection = mysql+pymysql://nova:p@controller/nova
slave_connection = mysql+pymysql://nova:p@replica/nova
[keystone_authtoken]
www_authenticate_uri = http://controller:5000/
auth_url = http://controller:5000/
memcached_servers = controller:11211
auth_type = password
project_domain_name = Default
user_domain_name = Default
project_name = service
username = nova
password = p
[neutron]
auth_url = http://controller:5000
auth_type = password
region_name = RegionOne
project_name = service
username = neutron
password = p
service_metadata_proxy = true
metadata_proxy_shared_secret = s
[placement]
region_name = RegionOne
auth_url = http://controller:5000/v3
username = placement
password = p
[cinder]
os_region_name = RegionOne
[libvirt]
virt_type = kvm
"""
NEUTRON_CONF = """\
[DEFAULT]
core_plugin = ml2
service_plugins = router
auth_strategy = keystone
agent_down_time = 75
dhcp_agents_per_network = 2
[agent]
root_helper = sudo neutron-rootwrap /etc/neutron/rootwrap.conf
[database]
connection = mysql+pymysql://neutron:p@controller/neutron
[keystone_authtoken]
www_authenticate_uri = http://controller:5000
auth_url = http://controller:5000
memcached_servers = controller:11211
username = neutron
password = p
project_name = service
[nova]
auth_url = http://controller:5000
username = nova
password = p
[oslo_concurrency]
lock_path = /var/lib/neutron/tmp
[oslo_policy]
policy_file = policy.yaml
"""


@pytest.mark.parametrize(("name", "text"), [("nova.conf", NOVA_CONF), ("neutron.conf", NEUTRON_CONF)])
def test_real_file_of_nova_and_neutron_has_no_findings(tmp_path: Path, name: str, text: str) -> None:
    """Credentials of other sections were suggested as [keystone_authtoken]."""
    path = tmp_path / name
    path.write_text(text)
    assert findings(path) == []


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        (NOVA_CONF.replace("service_metadata_proxy", "service_metadata_porxy"), 32, "[neutron] service_metadata_proxy"),
        (NOVA_CONF.replace("[neutron]", "[neutorn]"), 32, "[neutron] service_metadata_proxy"),
        (f"[DEFAULT]\nhttp_tokens = required\n{NOVA_CONF}", 2, "[imds] http_tokens"),
        (NOVA_CONF.replace("metadata_workers", "metadata_workrs"), 7, "[DEFAULT] metadata_workers"),
    ],
)
def test_misspelling_in_a_real_file_is_recognized(tmp_path: Path, text: str, line: int, meant: str) -> None:
    path = tmp_path / "nova.conf"
    path.write_text(text)
    assert any(
        sentence.startswith(f"line {line}: ") and sentence.endswith(f"was {meant} meant?")
        for _, sentence in findings(path)
    )


def test_agent_starts_with_a_real_file_without_warnings(tmp_path: Path) -> None:
    path = tmp_path / "neutron.conf"
    path.write_text(NEUTRON_CONF.replace("[nova]", "[DEFAULT]\nforce_metadta = True\n[nova]"))
    (only,) = load_dhcp_agent([str(path)]).warnings
    assert only.endswith("[DEFAULT] force_metadta is not an option; was [DEFAULT] force_metadata meant?")


def test_argument_names_the_program_of_a_file_with_another_name(tmp_path: Path) -> None:
    path = tmp_path / "my.ini"
    path.write_text("[DEFAULT]\nforce_metadata = True\nmetadata_workers = 2\n")
    assert findings(path) == []
    (only,) = validate_files([f"dhcp-agent={path}"], PROGRAMS)
    assert only.sentence == (
        f"{path}, line 3: [DEFAULT] metadata_workers is not read by dhcp-agent (another program reads it)"
    )


def test_option_list_of_openstack_is_complete() -> None:
    sections, options = openstack_options()
    assert {"cinder", "placement", "libvirt", "ovs"} <= sections
    assert not sections & {section.name for section in all_sections()}
    assert {("DEFAULT", "my_ip"), ("neutron", "auth_url"), ("agent", "root_helper"), ("DEFAULT", "verbose")} <= options
