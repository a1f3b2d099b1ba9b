"""`openimds up`, `status`, `restart` and `down` on one machine, and their errors."""

from __future__ import annotations

import os
import signal
import socket
import stat

import pytest
from tests.ports import free_ports
from tests.system.cloud import Cloud
from tests.waiting import until

from openimds.linux.process import identity

PARTS = ("control-api", "metadata-api", "metadata-agent", "dhcp-agent", "l3-agent", "compute-agent")


@pytest.fixture(scope="module")
def reported(cloud: Cloud) -> str:
    return cloud.openimds("status").stdout


def test_status_shows_all_programs_running(cloud: Cloud, reported: str) -> None:
    assert reported.startswith("openimds is up in ")
    for name in PARTS:
        assert cloud.part(name)["state"] == "running"
        assert name in reported


def test_openstack_client_gets_a_token(cloud: Cloud) -> None:
    assert cloud.json("openstack token issue")["project_id"]


def test_agents_are_reported_alive(cloud: Cloud) -> None:
    def alive() -> set[str]:
        agents = cloud.json("openstack network agent list")
        return {agent["Agent Type"] for agent in agents if agent["Alive"]}

    until(lambda: {"DHCP agent", "L3 agent", "Metadata agent"} <= alive(), "the three agents are alive")


def test_files_with_secrets_have_mode_0600(cloud: Cloud) -> None:
    files = [*(cloud.state_dir / "etc").iterdir(), *cloud.state_dir.glob("openimds.sqlite*")]
    assert {"token_keys", "clouds.yaml", "openimds.sqlite"} <= {path.name for path in files}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_logs_contain_no_secret(cloud: Cloud) -> None:
    etc = cloud.state_dir / "etc"
    secrets = {
        line.split("=", 1)[1].strip()
        for name in ("nova.conf", "neutron.conf")
        for line in (etc / name).read_text().splitlines()
        if line.startswith(("password", "metadata_proxy_shared_secret"))
    }
    assert len(secrets) == 2
    for name in (*PARTS, "supervisor"):
        log = cloud.log(name)
        assert log, name
        assert not any(secret in log for secret in secrets), name


def test_second_up_is_refused(cloud: Cloud) -> None:
    again = cloud.up(check=False)
    assert again.returncode == 1
    assert "openimds is already up in" in again.stdout + again.stderr
    assert all(cloud.part(name)["state"] == "running" for name in PARTS)


def test_restart_replaces_the_process(cloud: Cloud) -> None:
    ini = cloud.state_dir / "etc" / "dhcp_agent.ini"
    ini.write_text(ini.read_text().replace("force_metadata = False", "force_metadata = True"))
    before = cloud.part("dhcp-agent")["pid"]
    assert "dhcp-agent runs again" in cloud.openimds("restart", "dhcp-agent").stdout
    assert cloud.part("dhcp-agent")["pid"] != before


def test_restart_reports_an_invalid_configuration(cloud: Cloud) -> None:
    ini = cloud.state_dir / "etc" / "l3_agent.ini"
    good = ini.read_text()
    ini.write_text(good.replace("9697", "many"))
    failed = cloud.openimds("restart", "l3-agent", check=False)
    assert failed.returncode == 1
    assert "metadata_port: is not valid" in failed.stderr
    ini.write_text(good)
    until(lambda: cloud.part("l3-agent")["state"] == "running", "the program starts with the valid file")


@pytest.mark.parametrize("name", PARTS)
def test_killed_program_is_restarted_alone(cloud: Cloud, name: str) -> None:
    before = {part: cloud.part(part)["pid"] for part in PARTS}
    os.kill(before[name], signal.SIGKILL)
    until(
        lambda: cloud.part(name)["state"] == "running" and cloud.part(name)["pid"] != before[name],
        f"{name} is restarted",
    )
    assert {part: cloud.part(part)["pid"] for part in PARTS if part != name} == {
        part: pid for part, pid in before.items() if part != name
    }
    died = [line for line in cloud.log("supervisor").splitlines() if "died" in line and f"pid={before[name]} " in line]
    assert len(died) == 1
    assert "killed by SIGKILL" in died[0]


def test_up_after_a_killed_supervisor_keeps_the_programs(cloud: Cloud) -> None:
    before = {part: cloud.part(part)["pid"] for part in PARTS}
    os.kill(cloud.supervisor_pid(), signal.SIGKILL)
    until(lambda: "the supervisor is dead" in cloud.openimds("status", check=False).stdout, "status reports it")
    cloud.up()
    assert {part: cloud.part(part)["pid"] for part in PARTS} == before


def test_down_after_a_killed_supervisor_stops_all_programs(fresh_cloud: Cloud) -> None:
    fresh_cloud.up()
    (fresh_cloud.state_dir / "metrics" / "metadata-api.of-a-killed-one").mkdir(parents=True)
    pids = [fresh_cloud.part(name)["pid"] for name in PARTS]
    os.kill(fresh_cloud.supervisor_pid(), signal.SIGKILL)
    output = fresh_cloud.openimds("down").stdout
    assert "stopped: compute-agent" in output
    assert not [pid for pid in pids if identity.find(pid)]
    assert (fresh_cloud.state_dir / "openimds.sqlite").exists()
    assert "nothing was left" in fresh_cloud.openimds("down").stdout
    assert {fresh_cloud.part(name)["state"] for name in PARTS} == {"stopped"}
    assert not (fresh_cloud.state_dir / "metrics").exists()


def test_port_in_use_is_reported(fresh_cloud: Cloud) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fresh_cloud.control_port))
        taken.listen()
        failed = fresh_cloud.up(check=False)
    assert failed.returncode == 1
    assert f"127.0.0.1:{fresh_cloud.control_port}: the port is taken" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr


def test_address_of_another_machine_is_reported(fresh_cloud: Cloud) -> None:
    failed = fresh_cloud.up("--listen", "192.0.2.1", check=False)
    assert failed.returncode == 1
    output = failed.stdout + failed.stderr
    assert f"192.0.2.1:{fresh_cloud.control_port}: this machine does not have the address 192.0.2.1" in output
    assert "choose another with --listen" in output
    assert "Traceback" not in output


def test_unreachable_database_server_is_reported(fresh_cloud: Cloud) -> None:
    pytest.importorskip("psycopg", reason="the extra openimds[postgresql] is not installed")
    (closed_port,) = free_ports(1)
    nova = fresh_cloud.state_dir.parent / "nova.conf"
    nova.write_text(f"[database]\nconnection = postgresql+psycopg://imds:hidden@127.0.0.1:{closed_port}/imds\n")
    failed = fresh_cloud.up(f"--config-file={nova}", check=False)
    assert failed.returncode == 1
    output = failed.stdout + failed.stderr
    assert "check that the server runs, accepts connections there and has this user and database" in output
    assert "[database] connection says where" in output
    assert "hidden" not in output
    assert "Traceback" not in output + fresh_cloud.log("control-api")


def test_full_or_read_only_disk_is_reported(fresh_cloud: Cloud) -> None:
    fresh_cloud.state_dir.mkdir()
    fresh_cloud.line(f"mount -t tmpfs -o size=1M none {fresh_cloud.state_dir}")
    try:
        failed = fresh_cloud.up(check=False)
        assert failed.returncode == 1
        assert "full disk" in failed.stdout + failed.stderr
        fresh_cloud.line(f"mount -o remount,ro {fresh_cloud.state_dir}")
        failed = fresh_cloud.up(check=False)
        assert "cannot be written: read-only file system" in failed.stdout + failed.stderr
        assert "Traceback" not in failed.stdout + failed.stderr
    finally:
        fresh_cloud.line(f"umount {fresh_cloud.state_dir}")


def test_sigint_stops_all_programs(fresh_cloud: Cloud) -> None:
    fresh_cloud.up()
    pids = [fresh_cloud.part(name)["pid"] for name in PARTS]
    supervisor = fresh_cloud.supervisor_pid()
    os.kill(supervisor, signal.SIGINT)
    until(lambda: not identity.find(supervisor), "the supervisor has ended")
    assert not [pid for pid in pids if identity.find(pid)]


def test_second_system_with_the_same_prefix_is_refused(fresh_cloud: Cloud) -> None:
    table = f"bridge openimds_{fresh_cloud.prefix.rstrip('-')}"
    fresh_cloud.line(f"nft add table {table}")
    try:
        failed = fresh_cloud.up(check=False)
    finally:
        fresh_cloud.line(f"nft delete table {table}")
    assert failed.returncode == 1
    assert "another openimds seems to run on this machine with the same namespace prefix" in failed.stdout
    fresh_cloud.up()
