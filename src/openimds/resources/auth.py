"""How a program proves to a control API, or to a Keystone, who it is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOptions:
    """A user's name and password, and the project it acts in."""

    auth_url: str
    """`http://127.0.0.1:5000/v3`. An address that ends in `/v2.0` is led to `/v3` when the configuration is read."""
    username: str
    password: str = field(repr=False)
    project_name: str
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region_name: str | None = None
    cafile: str | None = None
    """The certificate authorities that vouch for the server; None: the system's."""
    insecure: bool = False
    """Takes any certificate."""
