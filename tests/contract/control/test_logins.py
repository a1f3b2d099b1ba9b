"""Limits, caching and revocation of logins, over HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import bcrypt
import pytest
import requests
from structlog.testing import capture_logs
from tests.contract.control.stage import Cloud, Session, password_login, sentence
from tests.waiting import HANG_SECONDS

from openimds.control_api.identity import logins
from openimds.resources.errors import TooManyRequests, Unauthorized


def token_request(cloud: Cloud, body: dict[str, Any]) -> requests.Response:
    return requests.post(f"{cloud.url}/v3/auth/tokens", json=body, timeout=HANG_SECONDS)


def token_from(cloud: Cloud, token: str) -> str:
    answer = token_request(cloud, {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["X-Subject-Token"])


@contextmanager
def blocked_password_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bcrypt does not return inside the block."""
    gate = threading.Event()

    def wait(_password: bytes, _hashed: bytes) -> bool:
        gate.wait()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(bcrypt, "checkpw", wait)
        try:
            yield
        finally:
            gate.set()


def test_too_many_failed_logins_are_answered_with_429(cloud: Cloud) -> None:
    cloud.member("guessed")
    for _ in range(logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS):
        assert token_request(cloud, password_login("guessed", "wrong", None)).status_code == 401
    refused = token_request(cloud, password_login("guessed", "wrong", None))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "failed logins" in sentence(refused.json())
    cloud.login("guessed", "guessed", "guessed")  # its password was verified before


def test_refused_logins_are_logged_once_in_a_minute_for_each_user_and_address() -> None:
    now = [0.0]
    limiter = logins.FailureLimiter(lambda: now[0])

    def guess(address: str) -> None:
        with contextlib.suppress(Unauthorized, TooManyRequests), limiter.attempt(address, "root"):
            raise Unauthorized("wrong password")

    with capture_logs() as logs:
        for address in ("192.0.2.1", "192.0.2.2"):
            for _ in range(logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS + 5):
                guess(address)
        assert [(line["address"], line["user"]) for line in logs] == [("192.0.2.1", "root"), ("192.0.2.2", "root")]
        now[0] += logins.LOG_INTERVAL_SECONDS + 1
        for _ in range(logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS + 5):
            guess("192.0.2.1")
    assert len(logs) == 3


def test_blocked_password_checks_delay_no_other_call(
    cloud: Cloud, admin: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(64) as clients, blocked_password_checks(monkeypatch):
        flood = [clients.submit(token_request, cloud, password_login(f"u{n}", "wrong", None)) for n in range(64)]
        assert requests.get(f"{cloud.url}/healthcheck", timeout=HANG_SECONDS).status_code == 200
        assert requests.get(f"{cloud.url}/metrics", timeout=HANG_SECONDS).status_code == 200
        assert admin.get("/openimds/v1/changes?kinds=port&after=0&timeout=0")["revision"] > 0
        assert cloud.login().project_id == admin.project_id
    statuses = [answer.result().status_code for answer in flood]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= logins.MAX_PENDING_PER_ADDRESS


def test_new_password_ends_the_old_one_at_once(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("changing")
    admin.call("PATCH", f"/v3/users/{user.user_id}", {"user": {"password": "another"}})
    assert token_request(cloud, password_login("changing", "changing", None)).status_code == 401
    assert token_request(cloud, password_login("changing", "another", None)).status_code == 201


def test_disabled_user_cannot_log_in_with_a_verified_password(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("leaving")
    admin.call("PATCH", f"/v3/users/{user.user_id}", {"user": {"enabled": False}})
    assert token_request(cloud, password_login("leaving", "leaving", None)).status_code == 401


def test_verified_password_is_not_hashed_again_until_a_token_is_revoked(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = cloud.member("frequent")
    calls = []
    check = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        calls.append(hashed)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    for _ in range(3):
        again = cloud.login("frequent", "frequent", "frequent")
    assert not calls
    again.call("DELETE", "/v3/auth/tokens", headers={"X-Subject-Token": again.token})
    assert cloud.login("frequent", "frequent", "frequent").user_id == user.user_id
    assert len(calls) == 1


def test_revoked_token_revokes_all_tokens_made_from_it(cloud: Cloud) -> None:
    first = cloud.login()
    second = token_from(cloud, first.token)
    third = token_from(cloud, second)
    fourth = token_from(cloud, third)
    assert first.call("DELETE", "/v3/auth/tokens", headers={"X-Subject-Token": second}).status_code == 204
    for token in (second, third, fourth):
        url = f"{cloud.url}/v3/auth/projects"
        assert requests.get(url, headers={"X-Auth-Token": token}, timeout=HANG_SECONDS).status_code == 401
    assert first.call("GET", "/v3/auth/projects").status_code == 200


def test_tokens_made_from_tokens_in_an_endless_row_are_refused(cloud: Cloud) -> None:
    token = cloud.login().token
    for _ in range(20):
        token = token_from(cloud, token)
    refused = token_request(cloud, {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}})
    assert refused.status_code == 401
    assert "too many" in sentence(refused.json())
