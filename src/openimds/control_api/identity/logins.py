"""Checks passwords in a small thread pool, with limits of failed attempts.

bcrypt takes about 0.2 s of a core. Without limits, a few dozen simultaneous logins with wrong passwords occupy every
thread of the control API. So password checks run in a pool of their own with a bounded queue, and failed attempts are
limited by client address and by user. A password that was verified shortly before is accepted without bcrypt and without
a limit (store/passwords.py).
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from cachetools import LRUCache, TTLCache
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from openimds.control_api.connections import address_prefix
from openimds.control_api.identity.protocols import Credentials
from openimds.resources.errors import TooManyRequests, Unauthorized

POOL_THREADS = 2
MAX_PENDING = 32
"""Maximum number of password checks that run or wait, for all clients."""
MAX_PENDING_PER_ADDRESS = 8
MAX_COUNTED = 20_000
"""Maximum number of token buckets. A further bucket replaces the least recently used one."""
MAX_KEY_CHARS = 255
LOG_INTERVAL_SECONDS = 60.0
"""The log has one line in this time for each address and user whose logins are refused."""
BUSY_RETRY_AFTER_SECONDS = 2

FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS = 10
FAILURES_PER_MINUTE_OF_ADDRESS = 60
FAILURES_PER_MINUTE_OF_USER = 120
"""Limit for all addresses together. The limit is high, because any client can use it up and lock the user out. A client
whose password was verified shortly before is not locked out.
"""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Allowance:
    left: float
    updated_at: float


class FailureLimiter:
    """Token buckets of failed attempts. An empty bucket is full again after one minute. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._allowances: LRUCache[Hashable, _Allowance] = LRUCache(MAX_COUNTED)
        self._logged: TTLCache[tuple[str, str], None] = TTLCache(MAX_COUNTED, LOG_INTERVAL_SECONDS, clock)

    @contextmanager
    def attempt(self, address: str, user: str) -> Iterator[None]:
        """A block that checks one password. The attempt counts if the block raises Unauthorized.

        Raises TooManyRequests before the block if a limit is reached.
        """
        limits = _limits(address, user)
        with self._lock:
            now = self._clock()
            buckets = [(self._refilled(key, limit, now), limit) for key, limit in limits.items()]
            wait_seconds = max((1 - bucket.left) * 60 / limit for bucket, limit in buckets)
            if wait_seconds > 0:
                if (address, user) not in self._logged:
                    self._logged[address, user] = None
                    log.warning("logins refused: too many failures", address=address, user=user[:MAX_KEY_CHARS])
                raise TooManyRequests(
                    "Too many failed logins of this user or from this address. Try again later.",
                    retry_after_seconds=math.ceil(wait_seconds),
                )
            for bucket, _ in buckets:
                bucket.left -= 1
        is_wrong = False
        try:
            yield
        except Unauthorized:
            is_wrong = True
            raise
        finally:
            if not is_wrong:
                with self._lock:
                    for bucket, _ in buckets:
                        bucket.left += 1

    def _refilled(self, key: Hashable, limit: int, now: float) -> _Allowance:
        bucket = self._allowances.get(key)
        if bucket is None:
            bucket = self._allowances[key] = _Allowance(float(limit), now)
        bucket.left = min(float(limit), bucket.left + (now - bucket.updated_at) * limit / 60)
        bucket.updated_at = now
        return bucket


class LoginService:
    """Checks passwords for the routes. Belongs to one event loop."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float] = time.monotonic) -> None:
        self._credentials = credentials
        self._limiter = FailureLimiter(clock)
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="login")
        self._pending: dict[str, int] = {}

    async def user_id(self, address: str, password: str, *, user_id: str | None = None, name: str | None = None) -> str:
        """Returns the id of the user with this password. Raises Unauthorized, TooManyRequests.

        `address` is the client's address.
        """
        login = await run_in_threadpool(self._credentials.look_up_login, password, user_id=user_id, name=name)
        if login.verified:
            return login.id
        client = address_prefix(address)
        user = login.id or (user_id or name or "")[:MAX_KEY_CHARS]
        with self._place_in_queue(client), self._limiter.attempt(client, user):
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, lambda: self._credentials.check_password(password, user_id=user_id, name=name)
            )

    @property
    def pending(self) -> int:
        """Number of password checks that run or wait."""
        return sum(self._pending.values())

    @contextmanager
    def _place_in_queue(self, client: str) -> Iterator[None]:
        if self.pending >= MAX_PENDING or self._pending.get(client, 0) >= MAX_PENDING_PER_ADDRESS:
            raise TooManyRequests(
                "Too many logins at the same time. Try again later.", retry_after_seconds=BUSY_RETRY_AFTER_SECONDS
            )
        self._pending[client] = self._pending.get(client, 0) + 1
        try:
            yield
        finally:
            self._pending[client] -= 1
            if not self._pending[client]:
                del self._pending[client]


def client_address(request: Request) -> str:
    """The peer's address, or the address in X-Forwarded-For if a reverse proxy on this host sends it."""
    return request.client.host if request.client else ""


def _limits(address: str, user: str) -> dict[Hashable, int]:
    return {
        ("both", address, user): FAILURES_PER_MINUTE_OF_USER_AT_ADDRESS,
        ("address", address): FAILURES_PER_MINUTE_OF_ADDRESS,
        ("user", user): FAILURES_PER_MINUTE_OF_USER,
    }
