"""Console output of instances is uploaded to the control API."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.agents.compute.console_log import REPEAT_SECONDS, TAIL_BYTES, TRUNCATE_BYTES, ConsoleUploader
from openimds.agents.testing import FakeComputeDriver, FakeServersApi, FakeView
from openimds.netconfig.netns_instance import BootState


@pytest.fixture
def api() -> FakeServersApi:
    return FakeServersApi(FakeView())


@pytest.fixture
def clock() -> list[float]:
    """The current time, which tests change."""
    return [0.0]


@pytest.fixture
def uploader(api: FakeServersApi, tmp_path: Path, clock: list[float]) -> ConsoleUploader:
    driver = FakeComputeDriver(tmp_path)
    driver.states["vm1"] = BootState(1, running=True)
    driver.states["vm2"] = BootState(1, running=True)
    return ConsoleUploader(api, driver, clock=lambda: clock[0])


def test_console_is_uploaded_only_after_a_change(
    api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path
) -> None:
    uploader.upload_changed()
    assert api.reports == []
    file = tmp_path / "vm1"
    file.write_text("booting\n")
    uploader.upload_changed()
    uploader.upload_changed()
    with file.open("a") as more:
        more.write("vm1 login:\n")
    uploader.upload_changed()
    assert api.reports == ["console of vm1: 8 characters", "console of vm1: 19 characters"]
    assert api.consoles["vm1"] == "booting\nvm1 login:\n"


def test_unchanged_console_is_uploaded_again_after_five_minutes(
    api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path, clock: list[float]
) -> None:
    """A restored database of the control API does not contain the console."""
    (tmp_path / "vm1").write_text("booting\n")
    uploader.upload_changed()
    clock[0] = REPEAT_SECONDS
    uploader.upload_changed()
    uploader.upload_changed()
    assert api.reports == ["console of vm1: 8 characters"] * 2


def test_new_boot_replaces_the_console(api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path) -> None:
    file = tmp_path / "vm1"
    file.write_text("first\n")
    uploader.upload_changed()
    file.rename(tmp_path / "old")
    file.write_text("second boot\n")
    uploader.upload_changed()
    assert api.consoles["vm1"] == "second boot\n"


def test_large_console_file_is_truncated(api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path) -> None:
    file = tmp_path / "vm1"
    file.write_text("x" * (TRUNCATE_BYTES + 1) + "the end\n")
    uploader.upload_changed()
    assert file.stat().st_size == 0
    assert len(api.consoles["vm1"]) == TAIL_BYTES
    with file.open("a") as more:
        more.write("and more\n")
    uploader.upload_changed()
    assert api.consoles["vm1"].endswith("xxthe end\nand more\n")


def test_failed_upload_is_repeated(api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path) -> None:
    (tmp_path / "vm1").write_text("one\n")
    (tmp_path / "vm2").write_bytes(b"two \xff\n")
    api.status = 503
    uploader.upload_changed()
    assert api.consoles == {}
    api.status = 204
    uploader.upload_changed()
    assert api.consoles == {"vm1": "one\n", "vm2": "two �\n"}


def test_console_of_a_deleted_server_is_dropped(api: FakeServersApi, uploader: ConsoleUploader, tmp_path: Path) -> None:
    (tmp_path / "vm1").write_text("one\n")
    api.status = 404
    uploader.upload_changed()
    api.status = 204
    uploader.upload_changed()
    assert api.consoles == {}
