"""The checks of Keystone and Neutron: each wrong option is named before the first client sends a request."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from openimds.client.cloud_check import CloudCheck
from openimds.client.control_client import ControlClient
from openimds.client.session import connect
from openimds.client.testing import FakeControl
from openimds.resources.auth import AuthOptions


@pytest.fixture
def neutron() -> Iterator[FakeControl]:
    with FakeControl(watch=False) as fake:
        yield fake


def checked(auth: AuthOptions, times: int = 1) -> tuple[list[float | None], list[dict[str, Any]]]:
    """The results of the checks, and the log."""
    auth = replace(auth, section="keystone_authtoken")
    session = connect(auth)
    check = CloudCheck(session, ControlClient(session, region=auth.region_name), auth)
    with capture_logs() as logs:
        results = [check.run() for _ in range(times)]
    return results, [dict(entry) for entry in logs]


def test_correct_options_have_one_event_for_each_check(neutron: FakeControl) -> None:
    results, logs = checked(neutron.auth)
    assert results == [None]
    assert [entry["event"] for entry in logs] == ["login accepted by the identity service", "ports listed by Neutron"]
    assert (logs[0]["user"], logs[0]["roles"]) == ("agent", "service")


def test_missing_role_is_logged_with_the_sufficient_ones(neutron: FakeControl) -> None:
    neutron.role = "member"
    _results, logs = checked(neutron.auth)
    assert logs[-1]["event"] == "agent user without role admin or service"


def test_wrong_region_is_named_with_the_existing_ones(neutron: FakeControl) -> None:
    results, logs = checked(replace(neutron.auth, region_name="RegionTwo"), times=2)
    assert results == [1.0, 2.0]
    (event,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert event["event"] == "region without a network service"
    assert (event["region"], event["option"]) == ("RegionTwo", "[keystone_authtoken] region_name")
    assert event["regions"]


def test_unreachable_keystone_is_logged_once_and_checked_again() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    results, logs = checked(AuthOptions(auth_url=f"http://127.0.0.1:{port}/v3", username="u", password="p"), times=3)
    assert results == [1.0, 2.0, 4.0]
    (event,) = logs
    assert (event["reason"], event["option"]) == ("no connection", "[keystone_authtoken] auth_url")


def test_url_of_another_service_is_named(neutron: FakeControl) -> None:
    _results, (event,) = checked(replace(neutron.auth, auth_url=f"{neutron.url}/elsewhere"))
    assert event["event"] == "identity service check failed"
    assert event["reason"] == "the URL belongs to another service than Keystone"


def test_untrusted_certificate_is_named(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(server: socket.socket) -> None:
        while True:
            try:
                context.wrap_socket(server.accept()[0], server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        url = f"https://localhost:{server.getsockname()[1]}/v3"
        _results, (event,) = checked(AuthOptions(auth_url=url, username="u", password="p"))
    assert event["reason"] == "the certificate of the server is not trusted"
    assert "cafile" in event["option"]


def test_refused_login_is_repeated_after_its_wait_only(neutron: FakeControl) -> None:
    results, logs = checked(replace(neutron.auth, password="wrong"), times=3)
    assert [round(result or 0) for result in results] == [60, 60, 60]
    assert [entry["event"].partition(":")[0] for entry in logs] == ["login refused"]
    assert neutron.refused_logins == 1


def test_failing_neutron_is_logged_with_its_response(neutron: FakeControl) -> None:
    neutron.fail_with(503)
    results, logs = checked(neutron.auth)
    assert results == [1.0]
    assert logs[-1]["event"] == "port query failed"
    assert "503" in logs[-1]["reason"]
