"""Creates keystoneauth sessions from the credentials in the configuration.

A refused login (401) is not repeated for FIRST_RETRY_SECONDS, and for twice as long after each further one, up to
LONGEST_RETRY_SECONDS. Keystone counts failed logins (`[security_compliance] lockout_failure_attempts`) and locks the account,
which other services may use as well. A changed configuration file or `retry_login` ends the wait. All threads of a program
share its session, and thereby the state of its login.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from keystoneauth1 import loading
from keystoneauth1.access.access import AccessInfo
from keystoneauth1.exceptions import ClientException, DiscoveryFailure, Unauthorized
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from openimds.resources.auth import AuthOptions

_log = structlog.get_logger(__name__)

CALL_TIMEOUT_SECONDS = 15.0
FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 600.0


class LoginWaitError(ClientException):
    """No login is attempted before `retry_seconds` have passed, because Keystone refused the last one."""

    def __init__(self, auth: AuthOptions, retry_seconds: float) -> None:
        super().__init__(
            f"{auth.auth_url} refused the login of {auth.user or auth.auth_type}; the next attempt is in "
            f"{retry_seconds:.0f} s, or when {' or '.join(auth.files) or 'the configuration'} changes"
        )
        self.retry_seconds = retry_seconds


def connect(auth: AuthOptions, reload: Callable[[], AuthOptions] | None = None) -> Session:
    """A session that fetches its token at the first call, and again when the token is rejected or about to expire.

    `reload` reads the credentials again after a change of `auth.files`. It may raise any exception.
    """
    plugin = _plugin(auth)
    if isinstance(plugin, BaseIdentityPlugin):
        plugin = _GuardedLogin(auth, plugin, reload or (lambda: auth))
    if auth.insecure:
        _log.warning("server certificates not verified", section=auth.section, option="insecure")
    verify: bool | str = False if auth.insecure else auth.cafile or True
    return Session(auth=plugin, verify=verify, timeout=CALL_TIMEOUT_SECONDS, app_name="openimds")


def retry_login(session: Session) -> None:
    """Ends the wait after a refused login. The next call reads the credentials again."""
    if isinstance(session.auth, _GuardedLogin):
        session.auth.end_wait()


class _GuardedLogin(BaseIdentityPlugin):
    """A plugin that limits the logins of another one. `get_access` of the base class serializes them."""

    def __init__(self, auth: AuthOptions, plugin: BaseIdentityPlugin, reload: Callable[[], AuthOptions]) -> None:
        super().__init__(auth_url=auth.auth_url)
        self._options = auth
        self._plugin = plugin
        self._reload = reload
        self._files = _versions(auth)
        self._login_lock = threading.Lock()
        self._login_thread: int | None = None
        self._wait_seconds = 0.0
        self._wait_until = 0.0
        """The monotonic time before which no login is attempted. 0 if the last login was not refused."""

    def get_access(self, session: Session, **kwargs: Any) -> AccessInfo:
        if self._login_thread == threading.get_ident():
            # The discovery of a URL that responds with 401 requests a token, and would wait for itself.
            raise DiscoveryFailure(f"{self.auth_url} requires a token for its versions, so it is no identity service")
        return super().get_access(session, **kwargs)

    def get_auth_ref(self, session: Session, **kwargs: Any) -> AccessInfo:
        with self._login_lock:
            self._read_changed_files()
            remaining_seconds = self._wait_until - time.monotonic()
            if remaining_seconds > 0:
                raise LoginWaitError(self._options, remaining_seconds)
            plugin = self._plugin
        self._login_thread = threading.get_ident()
        try:
            access = plugin.get_auth_ref(session, **kwargs)
        except Unauthorized as error:
            raise self._refused(error) from None
        finally:
            self._login_thread = None
        with self._login_lock:
            self._wait_seconds = self._wait_until = 0.0
        return access

    def get_cache_id_elements(self) -> Any:
        return self._plugin.get_cache_id_elements()

    def end_wait(self) -> None:
        with self._login_lock:
            self._files = ()

    def _read_changed_files(self) -> None:
        """Reads the credentials again if a file has changed, and ends the wait."""
        files = _versions(self._options)
        if files == self._files:
            return
        self._files = files
        try:
            options = self._reload()
            plugin = _plugin(options)
        except Exception as error:  # noqa: BLE001 - the file may have any content; the next change is read again
            _log.warning("credentials not reloaded", section=self._options.section, reason=str(error))
            return
        self._options = options
        if isinstance(plugin, BaseIdentityPlugin):
            self._plugin, self.auth_url = plugin, options.auth_url
        self._wait_seconds = self._wait_until = 0.0

    def _refused(self, error: Unauthorized) -> LoginWaitError:
        with self._login_lock:
            self._wait_seconds = min(max(2 * self._wait_seconds, FIRST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
            self._wait_until = time.monotonic() + self._wait_seconds
            auth, seconds = self._options, self._wait_seconds
        _log.error(
            "login refused: no further attempt before the retry, a changed file or a SIGHUP",
            section=auth.section,
            files=list(auth.files),
            auth_url=auth.auth_url,
            user=auth.user,
            project=auth.project_name,
            retry_seconds=round(seconds),
            reason=str(error).splitlines()[0] if str(error) else "401",
        )
        return LoginWaitError(auth, seconds)


def _plugin(auth: AuthOptions) -> BaseAuthPlugin:
    """The plugin of keystoneauth with its options. Raises ClientException for options that are missing."""
    options: dict[str, Any] = {
        "auth_url": with_v3_suffix(auth.auth_url),
        "username": auth.username,
        "password": auth.password,
        "user_domain_name": auth.user_domain_name,
        "project_name": auth.project_name,
        "project_domain_name": auth.project_domain_name,
    }
    if auth.plugin_options is not None:
        options = {"auth_url": with_v3_suffix(auth.auth_url), **auth.plugin_options}
    loader: Any = loading.get_plugin_loader(auth.auth_type)
    known = {option.dest for option in loader.get_options()}
    plugin: BaseAuthPlugin = loader.load_from_options(
        **{name: value for name, value in options.items() if name in known and value}
    )
    return plugin


def _versions(auth: AuthOptions) -> tuple[object, ...]:
    """The state of each configuration file. It differs after a change."""
    return tuple(_version(Path(file)) for file in auth.files)


def _version(file: Path) -> object:
    try:
        status = file.stat()
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_size, status.st_mtime_ns


def with_v3_suffix(auth_url: str) -> str:
    """Replaces the suffix `/v2.0` of a URL by `/v3`, and logs a warning: `http://controller:5000/v3`."""
    v3_url = re.sub(r"/v2\.0/*$", "/v3", auth_url)
    if v3_url != auth_url:
        _log.warning("identity v2.0 URL replaced by v3", configured=auth_url, used=v3_url)
    return v3_url
