"""Checks the credentials, the region and Neutron of a cloud, so that errors show before the first client sends a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import structlog
from keystoneauth1 import exceptions
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from openimds.client.control_client import ControlClient
from openimds.client.errors import ControlApiError
from openimds.client.session import LoginWaitError
from openimds.resources.auth import AuthOptions

log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0


@dataclass(slots=True)
class CloudCheck:
    """The checks of one program. They log one event each, and again only if the result differs."""

    session: Session
    client: ControlClient
    auth: AuthOptions
    _logged: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _retry_seconds: float = FIRST_RETRY_SECONDS

    def run(self) -> float | None:
        """Runs the checks once. Blocks. Returns the seconds until they should be repeated, and None if they are complete."""
        try:
            self._check_login()
            self._check_region()
            self._check_ports()
        except LoginWaitError as error:
            return error.retry_seconds  # the refused login is logged already
        except _CheckFailedError:
            retry_seconds = self._retry_seconds
            self._retry_seconds = min(2 * retry_seconds, LONGEST_RETRY_SECONDS)
            return retry_seconds
        return None

    def _check_login(self) -> None:
        try:
            token = self.session.get_token()
        except LoginWaitError:
            raise
        except (exceptions.ClientException, requests.RequestException) as error:
            failure = {"auth_url": self.auth.auth_url, **self._remedy(error)}
            if self._is_new("login", failure):
                log.error("identity service check failed", **failure)  # noqa: TRY400 - the reason suffices
            raise _CheckFailedError from None
        facts = {"auth_url": self.auth.auth_url, "user": self.auth.user, "project": self.auth.project_name}
        if isinstance(self.session.auth, BaseIdentityPlugin):
            facts["roles"] = ", ".join(sorted(self.session.auth.get_access(self.session).role_names or ()))
        if token and self._is_new("login", facts):
            log.info("login accepted by the identity service", **facts)

    def _remedy(self, error: Exception) -> dict[str, str]:
        section = self.auth.section
        if isinstance(error, exceptions.SSLError):
            return {
                "reason": "the certificate of the server is not trusted",
                "option": f"[{section}] cafile: the CA certificates of the cloud",
            }
        if isinstance(error, exceptions.ConnectFailure | exceptions.ConnectTimeout):
            return {"reason": "no connection", "option": f"[{section}] auth_url"}
        if isinstance(error, exceptions.DiscoveryFailure | exceptions.NotFound):
            return {
                "reason": "the URL belongs to another service than Keystone",
                "option": f"[{section}] auth_url: such as http://controller:5000/v3",
            }
        return {"reason": str(error).splitlines()[0] if str(error) else type(error).__name__, "option": f"[{section}]"}

    def _check_region(self) -> None:
        auth = self.session.auth
        if not isinstance(auth, BaseIdentityPlugin):
            return
        catalog: Any = auth.get_access(self.session).service_catalog
        endpoints = catalog.get_endpoints(service_type="network").get("network", [])
        regions = sorted({str(endpoint.get("region_id") or endpoint.get("region")) for endpoint in endpoints})
        if endpoints and self.auth.region_name in (None, *regions):
            return
        if self._is_new("region", {"regions": regions}):
            log.error(
                "region without a network service",
                region=self.auth.region_name,
                regions=regions,
                option=f"[{self.auth.section}] region_name",
            )
        raise _CheckFailedError

    def _check_ports(self) -> None:
        try:
            self.client.list_ports(limit=1)
        except ControlApiError as error:
            if self._is_new("ports", {"reason": str(error)}):
                log.error("port query failed", reason=str(error), option=f"[{self.auth.section}]")  # noqa: TRY400
            raise _CheckFailedError from None
        log.info("ports listed by Neutron", region=self.auth.region_name)
        self.client.warn_if_role_is_missing()

    def _is_new(self, check: str, result: Mapping[str, Any]) -> bool:
        """Returns whether the result of a check differs from the last one."""
        is_new = self._logged.get(check) != result
        self._logged[check] = result
        return is_new


class _CheckFailedError(Exception):
    """A check failed and was logged."""
