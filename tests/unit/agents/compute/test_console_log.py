"""What guests print reaches the control API, whole or by its tail."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds.agents.compute.console_log import CUT_BYTES, REPEAT_SECONDS, TAIL_BYTES, ConsoleUploader
from openimds.agents.testing import FakeComputeDriver, FakeServersApi, FakeView
from openimds.netconfig.netns_instance import BootState


@pytest.fixture
def api() -> FakeServersApi:
    return FakeServersApi(FakeView())


@pytest.fixture
def clock() -> list[float]:
    """The time, for tests to move."""
    return [0.0]


@pytest.fixture
def consoles(api: FakeServersApi, tmp_path: Path, clock: list[float]) -> ConsoleUploader:
    guests = FakeComputeDriver(tmp_path)
    guests.states["vm1"] = BootState(1, running=True)
    guests.states["vm2"] = BootState(1, running=True)
    return ConsoleUploader(api, guests, clock=lambda: clock[0])


def test_sends_what_is_new_and_only_then(api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path) -> None:
    consoles.upload_changed()
    assert api.said == []
    file = tmp_path / "vm1"
    file.write_text("booting\n")
    consoles.upload_changed()
    consoles.upload_changed()
    with file.open("a") as more:
        more.write("vm1 login:\n")
    consoles.upload_changed()
    assert api.said == ["console of vm1: 8 characters", "console of vm1: 19 characters"]
    assert api.consoles["vm1"] == "booting\nvm1 login:\n"


def test_unchanged_console_is_sent_again_after_a_while(
    api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path, clock: list[float]
) -> None:
    """A control API whose database was restored has lost it."""
    (tmp_path / "vm1").write_text("booting\n")
    consoles.upload_changed()
    clock[0] = REPEAT_SECONDS
    consoles.upload_changed()
    consoles.upload_changed()
    assert api.said == ["console of vm1: 8 characters"] * 2


def test_a_new_boot_begins_anew(api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path) -> None:
    file = tmp_path / "vm1"
    file.write_text("first\n")
    consoles.upload_changed()
    file.rename(tmp_path / "old")
    file.write_text("second boot\n")
    consoles.upload_changed()
    assert api.consoles["vm1"] == "second boot\n"


def test_a_guest_that_prints_without_end_fills_no_disk(
    api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path
) -> None:
    file = tmp_path / "vm1"
    file.write_text("x" * (CUT_BYTES + 1) + "the end\n")
    consoles.upload_changed()
    assert file.stat().st_size == 0
    assert len(api.consoles["vm1"]) == TAIL_BYTES
    with file.open("a") as more:
        more.write("and more\n")
    consoles.upload_changed()
    assert api.consoles["vm1"].endswith("xxthe end\nand more\n")


def test_what_could_not_be_sent_is_sent_later(api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path) -> None:
    (tmp_path / "vm1").write_text("one\n")
    (tmp_path / "vm2").write_bytes(b"two \xff\n")
    api.status = 503
    consoles.upload_changed()
    assert api.consoles == {}
    api.status = 204
    consoles.upload_changed()
    assert api.consoles == {"vm1": "one\n", "vm2": "two �\n"}


def test_a_deleted_servers_console_is_nobodys_loss(
    api: FakeServersApi, consoles: ConsoleUploader, tmp_path: Path
) -> None:
    (tmp_path / "vm1").write_text("one\n")
    api.status = 404
    consoles.upload_changed()
    api.status = 204
    consoles.upload_changed()
    assert api.consoles == {}
