from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.waiting import HANG_SECONDS

from openimds.control_api.identity import logins
from openimds.control_api.identity.logins import LoginService
from openimds.resources.errors import StoreUnavailable, TooManyRequests, Unauthorized
from openimds.resources.identity import LoginUser


class FakeCredentials:
    """Knows one user, `u`, with the password `right`. Checks wait for `gate`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.checks = 0
        self.verified = False
        self.is_available = True

    def look_up_login(self, password: str, *, user_id: str | None = None, name: str | None = None) -> LoginUser:
        return LoginUser("u", self.verified and password == "right") if "u" in (user_id, name) else LoginUser()

    def check_password(self, password: str, *, user_id: str | None = None, name: str | None = None) -> str:
        self.gate.wait()
        self.checks += 1
        if not self.is_available:
            raise StoreUnavailable("the store is away")
        if password != "right" or "u" not in (user_id, name):
            raise Unauthorized("wrong")
        return "u"

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"not used by logins: {name}")


@pytest.fixture
def credentials() -> Iterator[FakeCredentials]:
    fake = FakeCredentials()
    yield fake
    fake.gate.set()


def login(service: LoginService, address: str = "192.0.2.1", password: str = "wrong", name: str = "u") -> str:
    return asyncio.run(service.user_id(address, password, name=name))


async def pending(service: LoginService, count: int) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while service.pending < count:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.005)


@contextmanager
def wrong_password() -> Iterator[None]:
    with pytest.raises(Unauthorized):
        yield


def test_failed_logins_of_a_user_at_an_address_are_limited(credentials: FakeCredentials) -> None:
    now = 0.0
    service = LoginService(credentials, lambda: now)
    for _ in range(logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS):
        with wrong_password():
            login(service)
    with pytest.raises(TooManyRequests) as refused:
        login(service, password="right")
    assert refused.value.retry_after_seconds == 6
    assert credentials.checks == logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS
    assert login(service, "192.0.2.2", "right") == "u"
    now += 6
    assert login(service, password="right") == "u"


def test_failed_logins_at_an_address_are_limited_for_all_users(credentials: FakeCredentials) -> None:
    service = LoginService(credentials, lambda: 0.0)
    for number in range(logins.FAILURES_PER_MINUTE_OF_ADDRESS):
        with wrong_password():
            login(service, f"2001:db8::{number:x}", name=f"user{number}")
    with pytest.raises(TooManyRequests):
        login(service, "2001:db8::ffff:1", "right")
    assert login(service, "2001:db8:0:1::1", "right") == "u"


def test_failed_logins_of_a_user_are_limited_at_all_addresses(credentials: FakeCredentials) -> None:
    service = LoginService(credentials, lambda: 0.0)
    for number in range(logins.FAILURES_PER_MINUTE_OF_USER):
        with wrong_password():
            login(service, f"192.0.2.{number}")
    with pytest.raises(TooManyRequests):
        login(service, "198.51.100.1", "right")


def test_successful_logins_are_not_limited(credentials: FakeCredentials) -> None:
    service = LoginService(credentials, lambda: 0.0)
    for _ in range(200):
        assert login(service, password="right") == "u"


def test_unavailable_store_does_not_count_as_a_wrong_password(credentials: FakeCredentials) -> None:
    service = LoginService(credentials, lambda: 0.0)
    credentials.is_available = False
    for _ in range(2 * logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS):
        with pytest.raises(StoreUnavailable):
            login(service, password="right")
    credentials.is_available = True
    assert login(service, password="right") == "u"


def test_verified_password_needs_no_check_and_no_allowance(credentials: FakeCredentials) -> None:
    service = LoginService(credentials, lambda: 0.0)
    for _ in range(logins.FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS):
        with wrong_password():
            login(service)
    credentials.verified = True
    credentials.gate.clear()
    assert login(service, password="right") == "u"


def test_logins_beyond_the_queue_are_refused(credentials: FakeCredentials) -> None:
    async def flood() -> tuple[list[object], str]:
        service = LoginService(credentials, lambda: 0.0)
        credentials.gate.clear()
        checks = [
            asyncio.create_task(service.user_id(f"192.0.2.{number // 8}", "right", name="u"))
            for number in range(logins.MAX_PENDING)
        ]
        await pending(service, logins.MAX_PENDING)
        with pytest.raises(TooManyRequests):
            await service.user_id("198.51.100.1", "right", name="u")
        credentials.gate.set()
        answers = await asyncio.gather(*checks)
        return list(answers), await service.user_id("198.51.100.1", "right", name="u")

    assert asyncio.run(flood()) == (["u"] * logins.MAX_PENDING, "u")


def test_one_address_cannot_fill_the_queue(credentials: FakeCredentials) -> None:
    async def flood() -> list[str]:
        service = LoginService(credentials, lambda: 0.0)
        credentials.gate.clear()
        checks = [
            asyncio.create_task(service.user_id("192.0.2.1", "right", name="u"))
            for _ in range(logins.MAX_PENDING_PER_ADDRESS)
        ]
        await pending(service, logins.MAX_PENDING_PER_ADDRESS)
        with pytest.raises(TooManyRequests):
            await service.user_id("192.0.2.1", "right", name="u")
        other = asyncio.create_task(service.user_id("198.51.100.1", "right", name="u"))
        await pending(service, logins.MAX_PENDING_PER_ADDRESS + 1)
        credentials.gate.set()
        return await asyncio.gather(*checks, other)

    assert asyncio.run(flood()) == ["u"] * (logins.MAX_PENDING_PER_ADDRESS + 1)
