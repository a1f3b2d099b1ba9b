"""Credentials that a program authenticates with at a control API or a Keystone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOptions:
    """The credentials of one section of a configuration file."""

    auth_url: str
    """`http://127.0.0.1:5000/v3`. The configuration loader replaces `/v2.0` at the end by `/v3`."""
    username: str = ""
    password: str = field(default="", repr=False)
    project_name: str = ""
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region_name: str | None = None
    cafile: str | None = None
    """File with the CA certificates for the server's certificate. None if the system's are used."""
    insecure: bool = False
    """If True, the server's certificate is not verified."""
    auth_type: str = "password"
    """The plugin of keystoneauth."""
    plugin_options: Mapping[str, Any] | None = field(default=None, repr=False)
    """The options of a plugin other than `password`. None if the fields above are used."""
    section: str = ""
    """The section of the configuration files."""
    files: tuple[str, ...] = ()
    """The configuration files. A change of one of them ends the wait after a refused login."""

    @property
    def user(self) -> str:
        """The user or the application credential, for log events. It contains no secret."""
        options = self.plugin_options or {}
        names = ("username", "user_id", "application_credential_name", "application_credential_id")
        return self.username or next((str(options[name]) for name in names if options.get(name)), "")
