"""Creates keystoneauth sessions from the credentials in the configuration."""

from __future__ import annotations

import re

import structlog
from keystoneauth1.identity import generic
from keystoneauth1.session import Session

from openimds.resources.auth import AuthOptions

_log = structlog.get_logger(__name__)

CALL_TIMEOUT_SECONDS = 15.0


def connect(auth: AuthOptions) -> Session:
    """A session that fetches its token at the first call, and again when the token is rejected or about to expire."""
    plugin = generic.Password(
        auth_url=with_v3_suffix(auth.auth_url),
        username=auth.username,
        password=auth.password,
        user_domain_name=auth.user_domain_name,
        project_name=auth.project_name,
        project_domain_name=auth.project_domain_name,
    )
    verify: bool | str = False if auth.insecure else auth.cafile or True
    return Session(auth=plugin, verify=verify, timeout=CALL_TIMEOUT_SECONDS, app_name="openimds")


def with_v3_suffix(auth_url: str) -> str:
    """Replaces the suffix `/v2.0` of a URL by `/v3`, and logs a warning: `http://controller:5000/v3`."""
    v3_url = re.sub(r"/v2\.0/*$", "/v3", auth_url)
    if v3_url != auth_url:
        _log.warning("identity v2.0 URL replaced by v3", configured=auth_url, used=v3_url)
    return v3_url
