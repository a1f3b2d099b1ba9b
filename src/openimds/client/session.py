"""A keystoneauth session: who we are, and where the services are."""

from __future__ import annotations

import re

import structlog
from keystoneauth1.identity import generic
from keystoneauth1.session import Session

from openimds.resources.auth import AuthOptions

_log = structlog.get_logger(__name__)

CALL_TIMEOUT_SECONDS = 15.0


def connect(auth: AuthOptions) -> Session:
    """A session that gets its token at the first call, and a new one when it is refused or about to expire."""
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
    """`http://controller:5000/v2.0` → `http://controller:5000/v3`, with a warning; others as they are."""
    led = re.sub(r"/v2\.0/*$", "/v3", auth_url)
    if led != auth_url:
        _log.warning("identity v2.0 is no more; v3 is asked instead", configured=auth_url, asked=led)
    return led
