"""Credentials that a program authenticates with at a control API or a Keystone."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOptions:
    """User, password and project for Keystone's API v3."""

    auth_url: str
    """`http://127.0.0.1:5000/v3`. The configuration loader replaces `/v2.0` at the end by `/v3`."""
    username: str
    password: str = field(repr=False)
    project_name: str
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region_name: str | None = None
    cafile: str | None = None
    """File with the CA certificates for the server's certificate. None if the system's are used."""
    insecure: bool = False
    """If True, the server's certificate is not verified."""
