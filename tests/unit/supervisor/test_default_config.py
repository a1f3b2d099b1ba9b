from __future__ import annotations

from pathlib import Path

import yaml

from openimds import config
from openimds.config.programs import PROGRAMS
from openimds.supervisor.default_config import (
    CLOUD,
    DefaultConfig,
    clouds_yaml,
    configuration_files,
    override_file,
    with_auth_url,
)

SETTINGS = DefaultConfig(
    state_path=Path("/s"),
    listen="127.0.0.1",
    control_port=5001,
    metadata_port=8776,
    namespace_prefix="x-",
    metadata_proxy="direct",
    proxy_user="haproxy",
    service_password="service-pw",
    shared_secret="shared",
)


def written(folder: Path, extra: str = "") -> dict[str, list[str]]:
    for name, text in configuration_files(SETTINGS).items():
        (folder / name).write_text(text)
    (folder / "up.conf").write_text(extra)
    return {name: [str(folder / file) for file in (*program.files, "up.conf")] for name, program in PROGRAMS.items()}


def test_default_files_are_complete_and_consistent(tmp_path: Path) -> None:
    files = written(tmp_path)
    loaded = {name: program.load(files[name]) for name, program in PROGRAMS.items()}
    assert {value.state_path for value in loaded.values()} == {Path("/s")}
    assert [value.warnings for value in loaded.values()] == [()] * len(PROGRAMS)
    api, agent = config.load_metadata_api(files["metadata-api"]), config.load_metadata_agent(files["metadata-agent"])
    assert api.shared_secrets == (agent.shared_secret,) == ("shared",)
    assert api.service_metadata_proxy is True
    assert (api.listen.port, agent.nova_metadata_port) == (8776, 8776)
    assert config.load_control_api(files["control-api"]).public_url == "http://127.0.0.1:5001"
    compute = config.load_compute_agent(files["compute-agent"])
    assert compute.auth.auth_url == "http://127.0.0.1:5001/v3"
    assert (compute.auth.username, compute.auth.password, compute.namespace_prefix) == ("neutron", "service-pw", "x-")
    assert config.load_dhcp_agent(files["dhcp-agent"]).proxy.kind == "direct"


def test_options_of_one_start_override_all_files(tmp_path: Path) -> None:
    text = override_file(control="0.0.0.0:6000", metadata="0.0.0.0:6001", prefix="y-", metadata_proxy="haproxy")
    files = written(tmp_path, text)
    control = config.load_control_api(files["control-api"])
    assert (control.listen.host, control.listen.port) == ("0.0.0.0", 6000)
    agent = config.load_metadata_agent(files["metadata-agent"])
    assert agent.auth.auth_url == "http://127.0.0.1:6000/v3"
    assert (agent.nova_metadata_host, agent.nova_metadata_port) == ("127.0.0.1", 6001)
    assert config.load_metadata_api(files["metadata-api"]).listen.port == 6001
    assert agent.namespace_prefix == "y-"
    assert config.load_l3_agent(files["l3-agent"]).proxy.kind == "haproxy"


def test_clouds_yaml_holds_credentials_and_address() -> None:
    text = clouds_yaml("http://127.0.0.1:5000/v3", "p:w#", "RegionOne")
    cloud = yaml.safe_load(text)["clouds"][CLOUD]
    assert cloud["auth"]["password"] == "p:w#"
    assert cloud["auth"]["auth_url"] == "http://127.0.0.1:5000/v3"


def test_only_the_auth_url_of_the_openimds_cloud_is_updated() -> None:
    mine = "  mine:\n    auth:\n      auth_url: http://elsewhere/v3\n"
    text = clouds_yaml("http://127.0.0.1:5000/v3", "pw", "RegionOne") + mine
    changed = with_auth_url(text, "http://127.0.0.1:6000/v3")
    assert changed == text.replace("http://127.0.0.1:5000/v3", "http://127.0.0.1:6000/v3")
    other_first = "clouds:\n" + mine + text.removeprefix(text[: text.index("  openimds:")])
    assert "http://elsewhere/v3" in with_auth_url(other_first, "http://127.0.0.1:6000/v3")
