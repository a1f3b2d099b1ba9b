"""The loading of configuration files: precedence, old names, files without sections, and error messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openimds import config
from openimds.config import ConfigError

SEEDS = Path(__file__).parents[2] / "data" / "seeds"
AUTH = """\
[keystone_authtoken]
auth_url = http://127.0.0.1:5000/v3
username = neutron
password = pw
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


def test_nova_conf_of_the_seeds_loads_without_sections() -> None:
    loaded = config.load_metadata_api([str(SEEDS / "nova.conf")])
    assert loaded.service_metadata_proxy is True
    assert loaded.shared_secrets == ("SECRET_KEY",)
    warnings = "\n".join(loaded.warnings)
    assert "write [DEFAULT] above it" in warnings
    assert "[neutron] service_metadata_proxy" in warnings
    assert "[neutron] metadata_proxy_shared_secret" in warnings
    assert "SECRET_KEY" not in warnings


def test_metadata_agent_ini_of_the_seeds_loads_with_the_names_of_2014() -> None:
    loaded = config.load_metadata_agent([str(SEEDS / "metadata_agent.ini")])
    assert loaded.auth.auth_url == "http://controller:5000/v3"
    assert (loaded.auth.username, loaded.auth.password) == ("neutron", "admin_pass")
    assert (loaded.auth.project_name, loaded.auth.region_name) == ("service", "RegionOne")
    assert loaded.nova_metadata_host == "controller"
    assert loaded.shared_secret == "SECRETE_KEY"
    warnings = "\n".join(loaded.warnings)
    for new in ("[keystone_authtoken] auth_url", "[keystone_authtoken] username", "[DEFAULT] nova_metadata_host"):
        assert new in warnings
    assert "identity v2.0 no longer exists" in warnings
    assert "admin_pass" not in warnings.replace("admin_password", "")


def test_dhcp_and_l3_agent_files_of_the_seeds_load(write: Write) -> None:
    auth = write("neutron.conf", AUTH)
    by_dhcp = config.load_dhcp_agent([auth, str(SEEDS / "qdhcp" / "dhcp_agent.in")])
    assert (by_dhcp.enable_metadata_network, by_dhcp.enable_isolated_metadata) == (True, True)
    assert config.load_l3_agent([auth, str(SEEDS / "qdhcp" / "l3_agent.ini")]).enable_metadata_proxy is False
    by_router = config.load_dhcp_agent([auth, str(SEEDS / "qrouter" / "dhcp_agent.ini")])
    assert (by_router.enable_metadata_network, by_router.enable_isolated_metadata) == (True, False)
    l3 = config.load_l3_agent([auth, str(SEEDS / "qrouter" / "l3_agent.ini")])
    assert (l3.enable_metadata_proxy, l3.metadata_port) == (True, 9697)
    assert l3.proxy.socket_path == Path("/var/lib/neutron/metadata_proxy")


def test_later_file_overrides_even_with_an_old_name(write: Write) -> None:
    generated = write("nova.conf", "[neutron]\nmetadata_proxy_shared_secret = generated\n")
    assert config.load_metadata_api([generated, str(SEEDS / "nova.conf")]).shared_secrets == ("SECRET_KEY",)
    assert config.load_metadata_api([str(SEEDS / "nova.conf"), generated]).shared_secrets == ("generated",)


def test_state_path_is_substituted_in_other_paths(write: Write) -> None:
    loaded = config.load_metadata_agent([write("neutron.conf", f"[DEFAULT]\nstate_path = /s\n{AUTH}")])
    assert loaded.socket_path == Path("/s/metadata_proxy")
    assert loaded.haproxy_log_socket == Path("/s/haproxy_log")
    control = config.load_control_api([write("nova.conf", "[DEFAULT]\nstate_path = /s\n")])
    assert control.database_url == "sqlite:////s/openimds.sqlite"
    assert control.token_keys_file == Path("/s/etc/token_keys")


def test_secrets_are_not_in_repr(write: Write) -> None:
    files = [str(SEEDS / "metadata_agent.ini")]
    assert "SECRETE_KEY" not in repr(config.load_metadata_agent(files))
    assert "admin_pass" not in repr(config.load_metadata_agent(files).auth)
    connection = write("nova.conf", "[database]\nconnection = postgresql+psycopg://u:hidden@h/d\n")
    assert "hidden" not in repr(config.load_control_api([connection]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[control_api]\nport = 70000\n", "line 2: [control_api] port: is not valid: Should be less than or equal"),
        ("[DEFAULT]\ndebug = perhaps\n", "line 2: [DEFAULT] debug: is not valid"),
        ("[DEFAULT]\nlog_format = xml\n", "line 2: [DEFAULT] log_format: is not valid"),
        ("[DEFAULT]\nstate_path = here\n", "line 2: [DEFAULT] state_path: is not valid: write a path"),
        ("[DEFAULT]\nnamespace_prefix = UPPER\n", "[DEFAULT] namespace_prefix: is not valid"),
        ("[control_api\nport = 1\n", "line 1: Invalid section"),
        ("[DEFAULT]\njust words\n", "line 2: No ':' or '=' found"),
    ],
)
def test_invalid_value_is_reported_with_its_place(write: Write, text: str, sentence: str) -> None:
    path = write("nova.conf", text)
    with pytest.raises(ConfigError) as raised:
        config.load_control_api([path])
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(path)


def test_all_problems_are_reported_together(write: Write) -> None:
    path = write("nova.conf", "[DEFAULT]\ndebug = perhaps\n[control_api]\nport = x\n")
    with pytest.raises(ConfigError) as raised:
        config.load_control_api([path, "/nowhere/nova.conf"])
    assert raised.value.problems == ("/nowhere/nova.conf: cannot be read: no such file or directory",)
    with pytest.raises(ConfigError) as raised:
        config.load_control_api([path])
    assert len(raised.value.problems) == 2


def test_invalid_line_of_a_file_without_sections_has_its_own_number(write: Write) -> None:
    path = write("nova.conf", "enabled_apis = metadata\nmetadata_listen_port = 0\n")
    with pytest.raises(ConfigError, match=r"nova\.conf, line 2: \[DEFAULT\] metadata_listen_port"):
        config.load_metadata_api([path])


def test_invalid_secret_is_not_shown(write: Write) -> None:
    path = write("neutron.conf", AUTH.replace("password = pw", "password = pa$unknown"))
    text = ""
    try:
        text = repr(config.load_dhcp_agent([path]))
    except ConfigError as error:
        text = str(error)
    assert "pa$unknown" not in text


def test_missing_credentials_are_named(write: Write) -> None:
    path = write("dhcp_agent.ini", "[DEFAULT]\nforce_metadata = True\n")
    with pytest.raises(ConfigError) as raised:
        config.load_dhcp_agent([path])
    assert f"[keystone_authtoken] auth_url is not set in {path}; set it" in raised.value.problems
    assert len(raised.value.problems) == 3


def test_metadata_api_can_be_switched_off_as_in_nova(write: Write) -> None:
    path = write("nova.conf", "[DEFAULT]\nenabled_apis = osapi_compute\n")
    with pytest.raises(ConfigError, match="does not contain `metadata`"):
        config.load_metadata_api([path])


def test_likely_misspelling_is_a_warning(write: Write) -> None:
    path = write("nova.conf", "[neutron]\nservice_metadata_porxy = True\n[libvirt]\nvirt_type = kvm\n")
    loaded = config.load_metadata_api([path])
    (warning,) = loaded.warnings
    assert warning.startswith(f"{path}, line 2: [neutron] service_metadata_porxy is not an option")
    assert warning.endswith("was [neutron] service_metadata_proxy meant?")


@pytest.mark.parametrize(("text", "mark"), [("0x1", 1), ("0xffff", 0xFFFF), ("65537", 1), ("2", 2)])
def test_lower_16_bits_of_the_mark_are_used(write: Write, text: str, mark: int) -> None:
    path = write("l3_agent.ini", f"[DEFAULT]\nmetadata_access_mark = {text}\n{AUTH}")
    assert config.load_l3_agent([path]).metadata_access_mark == mark


def test_lease_duration_may_be_infinite_but_not_zero(write: Write) -> None:
    infinite = write("dhcp_agent.ini", f"[DEFAULT]\ndhcp_lease_duration = -1\n{AUTH}")
    assert config.load_dhcp_agent([infinite]).dhcp_lease_seconds is None
    zero = write("dhcp_agent.ini", f"[DEFAULT]\ndhcp_lease_duration = 0\n{AUTH}")
    with pytest.raises(ConfigError, match="a lease must last longer than 0 seconds"):
        config.load_dhcp_agent([zero])


def test_rate_limit_is_off_by_default(write: Write) -> None:
    assert config.load_l3_agent([write("a.ini", AUTH)]).proxy.rate_limit is None
    on = write("b.ini", f"{AUTH}[metadata_rate_limiting]\nrate_limit_enabled = True\nip_versions = 4\n")
    limit = config.load_l3_agent([on]).proxy.rate_limit
    assert limit is not None
    assert limit.ip_versions == {4}
    assert limit.burst_requests > 28, "a normal boot sends 28 requests"


def test_vendor_data_targets_are_parsed(write: Write) -> None:
    path = write("nova.conf", "[api]\nvendordata_dynamic_targets = cmdb@https://c/v,x@http://y\n")
    vendor_data = config.load_metadata_api([path]).vendor_data
    assert vendor_data.dynamic_targets == (("cmdb", "https://c/v"), ("x", "http://y"))
    assert vendor_data.dynamic_auth is None
    with pytest.raises(ConfigError, match="is not of the form name@http"):
        config.load_metadata_api([write("nova.conf", "[api]\nvendordata_dynamic_targets = cmdb\n")])
    with pytest.raises(ConfigError, match="vendordata_providers: is not valid"):
        config.load_metadata_api([write("nova.conf", "[api]\nvendordata_providers = Magic\n")])


def test_both_secrets_are_accepted_during_a_change(write: Write) -> None:
    path = write(
        "nova.conf",
        "[neutron]\nmetadata_proxy_shared_secret = new\nmetadata_proxy_shared_secret_previous = old\n",
    )
    assert config.load_metadata_api([path]).shared_secrets == ("new", "old")


def test_public_url_of_a_wildcard_listener_is_loopback(write: Write) -> None:
    path = write("nova.conf", "[control_api]\nlisten = 0.0.0.0\nport = 5001\n")
    assert config.load_control_api([path]).public_url == "http://127.0.0.1:5001"
    path = write("nova.conf", "[control_api]\nlisten = ::1\n")
    assert config.load_control_api([path]).public_url == "http://[::1]:5000"
    path = write("nova.conf", "[control_api]\npublic_url = https://cloud.example/\n")
    assert config.load_control_api([path]).public_url == "https://cloud.example"


@pytest.mark.parametrize(
    ("line", "expected"), [("", False), ("log_requests = failed", False), ("log_requests = all", True)]
)
def test_namespace_proxies_log_failed_or_all_requests(write: Write, line: str, expected: bool) -> None:
    file = write("neutron.conf", AUTH + f"[metadata_haproxy]\n{line}\n")
    assert config.load_dhcp_agent([file]).proxy.logs_all_requests is expected
    assert config.load_l3_agent([file]).proxy.logs_all_requests is expected


def test_connections_per_guest_in_neutron_conf_applies_in_both_modes(write: Write) -> None:
    file = write("neutron.conf", AUTH + "[metadata_haproxy]\nconnections_per_guest = 7\ntimeout_client = 40\n")
    assert config.load_dhcp_agent([file]).proxy.connections_per_guest == 7
    assert config.load_l3_agent([file]).proxy.connections_per_guest == 7
    loaded = config.load_metadata_agent([file])
    assert loaded.connections_per_guest == 7
    assert loaded.warnings == ()


APPLICATION_CREDENTIAL = """\
[DEFAULT]
metadata_proxy_shared_secret = s
[keystone_authtoken]
auth_url = http://controller:5000/v2.0
auth_type = v3applicationcredential
application_credential_id = abc
application_credential_secret = sesame
region_name = RegionTwo
"""


def test_options_of_another_plugin_are_read(write: Write) -> None:
    """The defaults of a password's project and domains are not options of an application credential."""
    path = write("metadata_agent.ini", APPLICATION_CREDENTIAL)
    auth = config.load_metadata_agent([path]).auth
    assert auth.auth_type == "v3applicationcredential"
    assert auth.plugin_options == {
        "auth_url": "http://controller:5000/v3",
        "application_credential_id": "abc",
        "application_credential_secret": "sesame",
    }
    assert (auth.region_name, auth.user, auth.section, auth.files) == (
        "RegionTwo",
        "abc",
        "keystone_authtoken",
        (path,),
    )
    assert "sesame" not in repr(auth)
    assert not [warning for warning in config.load_metadata_agent([path]).warnings if "application" in warning]


def test_unknown_plugin_is_refused_with_the_known_ones(write: Write) -> None:
    path = write("metadata_agent.ini", APPLICATION_CREDENTIAL.replace("v3applicationcredential", "v3aplication"))
    with pytest.raises(ConfigError) as raised:
        config.load_metadata_agent([path])
    (problem,) = raised.value.problems
    assert problem.startswith(f"{path}, line 5: [keystone_authtoken] auth_type: is not valid")
    assert "v3applicationcredential" in problem


def test_missing_option_of_a_plugin_is_named(write: Write) -> None:
    path = write("metadata_agent.ini", APPLICATION_CREDENTIAL.replace("application_credential_secret = sesame\n", ""))
    with pytest.raises(ConfigError) as raised:
        config.load_metadata_agent([path])
    assert raised.value.problems == (
        f"[keystone_authtoken] application_credential_secret is not set in {path}; v3applicationcredential needs it",
    )


def test_misspelt_option_of_a_plugin_has_a_suggestion(write: Write) -> None:
    text = APPLICATION_CREDENTIAL + "application_credential_nme = n\n"
    warnings = config.load_metadata_agent([write("metadata_agent.ini", text)]).warnings
    assert any("was [keystone_authtoken] application_credential_name meant?" in warning for warning in warnings)
