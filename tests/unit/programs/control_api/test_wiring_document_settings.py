"""The settings that the control API tells agents: the same as the metadata API's, followed as the file changes."""

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
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "CHECK_SECONDS", 0.0)


def nova_conf(folder: Path, text: str) -> str:
    path = folder / "nova.conf"
    path.write_text(text)
    return str(path)


def documents(folder: Path, text: str) -> DocumentsConfig:
    return config.load_control_api([nova_conf(folder, text)]).documents


def test_both_programs_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "vd.json").write_text('{"a": 1}')
    path = nova_conf(
        tmp_path,
        f"[api]\ndhcp_domain = example.org\nvendordata_jsonfile_path = {tmp_path}/vd.json\n"
        "vendordata_providers = StaticJSON,DynamicJSON\n[imds]\nopenstack_tokens = required\n"
        "[neutron]\nservice_metadata_proxy = true\nmetadata_proxy_shared_secret = s\n",
    )
    told = ReloadingDocumentSettings(config.load_control_api([path]).documents).current()
    assert told == plan_service(config.load_metadata_api([path])).settings
    assert told.static_vendor_data == {"a": 1}


def test_the_file_is_followed_and_a_broken_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "vd.json"
    file.write_text('{"a": 1}')
    followed = ReloadingDocumentSettings(documents(tmp_path, f"[api]\nvendordata_jsonfile_path = {file}\n"))
    first = followed.current()
    assert followed.current() is first
    file.write_text("{")
    assert followed.current() is first
    file.write_text('{"a": 22}')
    until(lambda: followed.current().static_vendor_data == {"a": 22})


def test_what_cannot_be_read_is_told_to_nobody_until_it_can(tmp_path: Path) -> None:
    file = tmp_path / "vd.json"
    followed = ReloadingDocumentSettings(documents(tmp_path, f"[api]\nvendordata_jsonfile_path = {file}\n"))
    with pytest.raises(NotFound, match="see the log"):
        followed.current()
    file.write_text("{}")
    assert followed.current().static_vendor_data == {}


def test_a_configuration_that_cannot_be_used_leaves_what_was(tmp_path: Path) -> None:
    followed = ReloadingDocumentSettings(documents(tmp_path, "[api]\ndhcp_domain = one\n"))
    followed.take_over(documents(tmp_path, "[api]\ndhcp_domain = two\nvendordata_jsonfile_path = /no/file\n"))
    assert followed.current().dhcp_domain == "one"
    followed.take_over(documents(tmp_path, "[api]\ndhcp_domain = three\n"))
    assert followed.current().dhcp_domain == "three"
