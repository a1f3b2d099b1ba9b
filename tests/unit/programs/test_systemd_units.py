"""The shipped units: systemd takes them, and they say what the programs rely on."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.waiting import HANG_SECONDS

from openimds.config.programs import PROGRAMS
from openimds.supervisor.notify_socket import MAX_SOCKETS

FOLDER = Path(__file__).parents[3] / "packaging" / "systemd"
OF_A_NEWER_SYSTEMD = ("FileDescriptorStorePreserve",)
MOUNTING = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadWritePaths",
            "ProtectKernelTunables", "ProtectControlGroups", "InaccessiblePaths", "BindPaths")  # fmt: skip


def unit(program: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((FOLDER / f"openimds-{program}.service").read_text())
    return found


def test_every_program_has_one() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"openimds-{name}.service" for name in PROGRAMS}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_them(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        # The program need not be installed where this runs.
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/openimds", "/bin/true"))
    units = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "openimds" in line]
    assert [line for line in said if not any(f"'{word}'" in line for word in OF_A_NEWER_SYSTEMD)] == []


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_they_tell_systemd_and_are_started_again(program: str) -> None:
    service = unit(program)["Service"]
    assert service["ExecStart"] == f"/usr/bin/openimds {program}"
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")


@pytest.mark.parametrize("program", ["dhcp-agent", "l3-agent", "compute-agent"])
def test_what_an_agent_started_outlives_it(program: str) -> None:
    assert unit(program)["Service"]["KillMode"] == "process"


@pytest.mark.parametrize("program", ["metadata-agent", "dhcp-agent", "l3-agent", "compute-agent"])
def test_an_agent_shares_the_machines_mounts(program: str) -> None:
    """Network namespaces have their names by mounts in /run/netns, which all agents have to see."""
    assert [key for key in unit(program)["Service"] if key in MOUNTING] == []


def test_the_metadata_agents_sockets_are_kept() -> None:
    service = unit("metadata-agent")["Service"]
    assert int(service["FileDescriptorStoreMax"]) == MAX_SOCKETS
    assert int(service["LimitNOFILE"]) > 3 * MAX_SOCKETS


@pytest.mark.parametrize("program", ["dhcp-agent", "l3-agent"])
def test_an_agent_may_have_open_what_a_thousand_namespaces_take(program: str) -> None:
    per_namespace = 20  # some sockets, and a file for each setting
    # What stays open is no more than half of what is allowed.
    assert int(unit(program)["Service"]["LimitNOFILE"]) // 2 > 1000 * per_namespace
