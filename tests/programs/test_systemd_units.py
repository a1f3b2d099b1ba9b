"""The systemd units in packaging/: systemd accepts them, and they have the settings that the programs need."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

from openimds.config.programs import PROGRAMS
from openimds.runtime.lifecycle import WatchMissingError
from openimds.supervisor.notify_socket import MAX_SOCKETS

FOLDER = Path(__file__).parents[2] / "packaging" / "systemd"
NEWER_DIRECTIVES = ("FileDescriptorStorePreserve",)
MOUNT_DIRECTIVES = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadWritePaths",
            "ProtectKernelTunables", "ProtectControlGroups", "InaccessiblePaths", "BindPaths")  # fmt: skip


def unit(program: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((FOLDER / f"openimds-{program}.service").read_text())
    return found


def test_every_program_has_a_unit() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"openimds-{name}.service" for name in PROGRAMS}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        # The program may not be installed on this machine.
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/openimds", "/bin/true"))
    units = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "openimds" in line]
    assert [line for line in lines if not any(f"'{word}'" in line for word in NEWER_DIRECTIVES)] == []


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_units_notify_systemd_and_restart(program: str) -> None:
    service = unit(program)["Service"]
    assert service["ExecStart"] == f"/usr/bin/openimds {program}"
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")


@pytest.mark.parametrize("program", ["dhcp-agent", "l3-agent", "compute-agent"])
def test_processes_of_an_agent_outlive_it(program: str) -> None:
    assert unit(program)["Service"]["KillMode"] == "process"


@pytest.mark.parametrize("program", ["dhcp-agent", "l3-agent", "compute-agent"])
def test_agent_is_not_restarted_in_an_unsupported_cloud(program: str) -> None:
    assert unit(program)["Service"]["RestartPreventExitStatus"] == str(WatchMissingError.exit_code)


@pytest.mark.parametrize("program", ["metadata-agent", "dhcp-agent", "l3-agent", "compute-agent"])
def test_agents_share_the_mounts_of_the_machine(program: str) -> None:
    """The names of network namespaces are mounts in /run/netns, which all agents must see."""
    assert [key for key in unit(program)["Service"] if key in MOUNT_DIRECTIVES] == []


def test_metadata_agent_can_store_all_its_sockets() -> None:
    service = unit("metadata-agent")["Service"]
    assert int(service["FileDescriptorStoreMax"]) == MAX_SOCKETS
    assert int(service["LimitNOFILE"]) > 3 * MAX_SOCKETS


@pytest.mark.parametrize("program", ["dhcp-agent", "l3-agent"])
def test_agents_can_open_the_files_of_a_thousand_namespaces(program: str) -> None:
    per_namespace = 20  # some sockets, and a file per sysctl
    # The open files use at most half of the limit.
    assert int(unit(program)["Service"]["LimitNOFILE"]) // 2 > 1000 * per_namespace
