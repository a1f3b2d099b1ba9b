"""Passwords posted by a guest and read by the SDK, and instances imported while the system runs."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import openstack
import pytest
import yaml
from openstack.connection import Connection
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud
from tests.waiting import HANG_SECONDS, until

from openimds.guest_identity.signature import sign

PASSWORD = "http://169.254.169.254/openstack/latest/password"
IMPORTED = "6f0c1de4-3c52-4a53-9c1c-5f1ac3b1a009"


@dataclass(frozen=True, slots=True)
class Guest:
    """Requests for the password from the instance's namespace."""

    cloud: Cloud
    server_id: str

    def ask(self, *more: str) -> tuple[int, str]:
        output = self.cloud.inside(f"qvm-{self.server_id}", "curl", "-s", "-w", "\n%{http_code}", *more, PASSWORD)
        body, _, status = output.rpartition("\n")
        return int(status), body


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Guest:
    api = ApiClient(cloud)
    network = api.network("n", "192.168.77.0/24")
    api.router("r", network)
    found = Guest(cloud, api.server("vm", network))
    cloud.wait_booted(found.server_id, "vm")
    return found


@pytest.fixture(scope="module")
def sdk(cloud: Cloud) -> Iterator[Connection]:
    who = yaml.safe_load((cloud.state_dir / "etc" / "clouds.yaml").read_text())["clouds"]["openimds"]["auth"]
    connection = openstack.connect(load_yaml_config=False, load_envvars=False, **who)
    yield connection
    connection.close()
    connection.session.session.close()


@pytest.mark.filterwarnings("ignore:")  # deprecation warnings of the SDK
def test_password_is_stored_once_and_read_by_its_owner(metadata_proxy: str, guest: Guest, sdk: Connection) -> None:
    assert guest.ask() == (200, "")
    assert not sdk.compute.get_server_password(guest.server_id)
    assert guest.ask("--data-binary", "x" * 1021)[0] == 400
    assert guest.ask("-X", "PUT", "--data-binary", "x")[0] == 400
    secret = "s" * 1020
    assert guest.ask("--data-binary", secret) == (200, "")
    assert guest.ask("--data-binary", "another")[0] == 409
    assert guest.ask() == (200, secret)
    assert sdk.compute.get_server_password(guest.server_id) == secret
    sdk.compute.clear_server_password(guest.server_id)
    until(lambda: guest.ask() == (200, ""), "the guest reads an empty password")
    assert guest.ask("--data-binary", "second") == (200, "")
    assert sdk.compute.get_server_password(guest.server_id) == "second"
    sdk.compute.clear_server_password(guest.server_id)
    until(lambda: guest.ask() == (200, ""), "the guest reads an empty password")
    assert not any(secret in guest.cloud.log(part) for part in ("metadata-api", "metadata-agent", "control-api"))


def test_imported_instance_is_served_by_the_running_system(cloud: Cloud, tmp_path: Path) -> None:
    for hostname in ("first", "second"):
        file = tmp_path / "instances.yaml"
        file.write_text(f"instances:\n  - {{id: {IMPORTED}, project_id: p, hostname: {hostname}}}\n")
        output = cloud.line(f"openimds import instances {file} --state-dir {cloud.state_dir}")
        assert output == "1 instance imported\n"
        until(lambda name=hostname: _hostname(cloud) == f"{name}.novalocal", f"{hostname} is served")  # type: ignore[misc]


def _hostname(cloud: Cloud) -> str | None:
    """The hostname of the imported instance in the response to a signed request. None unless it is served."""
    settings = (cloud.state_dir / "etc" / "nova.conf").read_text()
    secret = re.search(r"^metadata_proxy_shared_secret = (.+)$", settings, re.MULTILINE)
    assert secret
    headers = {"X-Instance-ID": IMPORTED, "X-Tenant-ID": "p", "X-Instance-ID-Signature": sign(secret[1], IMPORTED)}
    with closing(http.client.HTTPConnection("127.0.0.1", cloud.metadata_port, timeout=HANG_SECONDS)) as connection:
        connection.request("GET", "/openstack/latest/meta_data.json", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    return str(json.loads(body)["hostname"]) if answer.status == 200 else None


def test_idle_system_stops_without_sigkill(cloud: Cloud) -> None:
    """Comes last, because it stops the system. Waiting long polls do not delay the stop until SIGKILL."""
    cloud.openimds("down")
    assert "killed after its stop timeout" not in cloud.log("supervisor")
