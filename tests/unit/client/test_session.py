"""Logins: the wait after a refused one, and the plugins of keystoneauth."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from openimds.client import session as session_module
from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError, LoginRefusedError
from openimds.client.session import connect
from openimds.client.testing import PASSWORD, FakeControl
from openimds.resources.auth import AuthOptions

WRONG = "sesame"


class Clock:
    """Replaces `time` in the module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(session_module, "time", made)
    return made


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "metadata_agent.ini"
    made.write_text(WRONG)
    return made


def options(control: FakeControl, file: Path) -> AuthOptions:
    """The credentials of a file that contains only the password."""
    return replace(control.auth, password=file.read_text(), section="keystone_authtoken", files=(str(file),))


def client(control: FakeControl, file: Path) -> ControlClient:
    return ControlClient(connect(options(control, file), lambda: options(control, file)))


def refused(agent: ControlClient) -> float:
    with pytest.raises(LoginRefusedError) as error:
        agent.list_ports()
    return round(error.value.retry_seconds)


def test_wait_after_a_refused_login_doubles_from_one_to_ten_minutes(
    control: FakeControl, file: Path, clock: Clock
) -> None:
    """A wrong password was tried about once a second, which locked the account in Keystone."""
    agent = client(control, file)
    waits = []
    for _ in range(6):
        waits.append(refused(agent))
        for _ in range(5):
            refused(agent)
        clock.now += waits[-1]
    assert waits == [60, 120, 240, 480, 600, 600]
    assert control.refused_logins == 6


def test_all_threads_of_a_program_share_one_login(control: FakeControl, file: Path) -> None:
    agent = client(control, file)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: refused(agent), range(100)))
    with pytest.raises(LoginRefusedError):
        agent.snapshot(["port"])
    assert control.refused_logins == 1


def test_changed_file_ends_the_wait(control: FakeControl, file: Path) -> None:
    agent = client(control, file)
    refused(agent)
    file.write_text("still wrong")
    assert refused(agent) == 60
    assert control.refused_logins == 2
    file.write_text(PASSWORD)
    assert agent.list_ports() == []
    assert (control.refused_logins, control.logins) == (2, 1)


def test_reload_ends_the_wait_without_a_changed_file(control: FakeControl, file: Path) -> None:
    agent = client(control, file)
    refused(agent)
    control.password = WRONG
    refused(agent)
    agent.retry_login()
    assert agent.list_ports() == []


def test_invalid_file_leaves_the_credentials_as_they_are(control: FakeControl, file: Path) -> None:
    def invalid() -> AuthOptions:
        raise ValueError("line 3 is not valid")

    agent = ControlClient(connect(options(control, file), invalid))
    refused(agent)
    file.write_text("[broken")
    with capture_logs() as logs:
        refused(agent)
        refused(agent)
    assert [entry["event"] for entry in logs] == ["credentials not reloaded"]
    assert control.refused_logins == 1


def test_successful_login_resets_the_wait(control: FakeControl, file: Path, clock: Clock) -> None:
    agent = client(control, file)
    refused(agent)
    control.password = WRONG
    clock.now += 60
    assert agent.list_ports() == []
    control.password = "changed"
    control.revoke_tokens()
    assert refused(agent) == 60


def test_log_event_names_what_to_correct_and_no_secret(control: FakeControl, file: Path) -> None:
    agent = client(control, file)
    with capture_logs() as logs:
        refused(agent)
    (event,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert event["section"] == "keystone_authtoken"
    assert event["files"] == [str(file)]
    assert event["auth_url"] == control.auth.auth_url
    assert (event["user"], event["project"]) == ("agent", "service")
    assert WRONG not in str(logs)


def test_unreachable_keystone_is_no_refused_login(control: FakeControl, file: Path) -> None:
    auth = replace(options(control, file), auth_url="http://127.0.0.1:1/v3")
    agent = ControlClient(connect(auth))
    for _ in range(2):
        with pytest.raises(ControlApiError) as error:
            agent.list_ports()
        assert not isinstance(error.value, LoginRefusedError)


def test_unverified_certificates_are_logged_once(control: FakeControl) -> None:
    with capture_logs() as logs:
        agent = ControlClient(connect(replace(control.auth, insecure=True)))
        agent.list_ports()
    assert [entry["event"] for entry in logs].count("server certificates not verified") == 1


def test_plugin_with_a_token_and_an_endpoint_needs_no_login(control: FakeControl) -> None:
    token = connect(control.auth).get_token()
    assert token is not None
    auth = AuthOptions(
        auth_url="", auth_type="admin_token", plugin_options={"endpoint": f"{control.url}/network/v2.0", "token": token}
    )
    assert ControlClient(connect(auth)).list_ports() == []
    assert control.logins == 1
