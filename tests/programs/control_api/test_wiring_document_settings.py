"""The settings for rendering documents that the control API sends to agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.waiting import until

from openimds import config
from openimds.config import DocumentsConfig
from openimds.programs.control_api import wiring
from openimds.programs.control_api.wiring import ReloadingDocumentSettings
from openimds.programs.metadata_api.wiring import plan_service
from openimds.resources.errors import NotFound


@pytest.fixture(autouse=True)
def _check_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "CHECK_SECONDS", 0.0)


def nova_conf(folder: Path, text: str) -> str:
    path = folder / "nova.conf"
    path.write_text(text)
    return str(path)


def documents(folder: Path, text: str) -> DocumentsConfig:
    return config.load_control_api([nova_conf(folder, text)]).documents


def test_settings_equal_those_of_the_metadata_api(tmp_path: Path) -> None:
    (tmp_path / "vd.json").write_text('{"a": 1}')
    path = nova_conf(
        tmp_path,
        f"[api]\ndhcp_domain = example.org\nvendordata_jsonfile_path = {tmp_path}/vd.json\n"
        "vendordata_providers = StaticJSON,DynamicJSON\n[imds]\nopenstack_tokens = required\n"
        "[neutron]\nservice_metadata_proxy = true\nmetadata_proxy_shared_secret = s\n",
    )
    sent = ReloadingDocumentSettings(config.load_control_api([path]).documents).current()
    assert sent == plan_service(config.load_metadata_api([path])).settings
    assert sent.static_vendor_data == {"a": 1}


def test_changed_file_is_reloaded_and_an_invalid_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "vd.json"
    file.write_text('{"a": 1}')
    settings = ReloadingDocumentSettings(documents(tmp_path, f"[api]\nvendordata_jsonfile_path = {file}\n"))
    first = settings.current()
    assert settings.current() is first
    file.write_text("{")
    assert settings.current() is first
    file.write_text('{"a": 22}')
    until(lambda: settings.current().static_vendor_data == {"a": 22})


def test_unreadable_settings_are_not_found_until_they_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "vd.json"
    settings = ReloadingDocumentSettings(documents(tmp_path, f"[api]\nvendordata_jsonfile_path = {file}\n"))
    with pytest.raises(NotFound, match="see the log"):
        settings.current()
    file.write_text("{}")
    assert settings.current().static_vendor_data == {}


def test_invalid_configuration_keeps_the_previous_settings(tmp_path: Path) -> None:
    settings = ReloadingDocumentSettings(documents(tmp_path, "[api]\ndhcp_domain = one\n"))
    settings.replace_config(documents(tmp_path, "[api]\ndhcp_domain = two\nvendordata_jsonfile_path = /no/file\n"))
    assert settings.current().dhcp_domain == "one"
    settings.replace_config(documents(tmp_path, "[api]\ndhcp_domain = three\n"))
    assert settings.current().dhcp_domain == "three"
