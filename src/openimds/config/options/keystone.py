"""The options of who asks an identity service: keystoneauth's."""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import Section, old


def keystone_section(name: str, *, purpose: str, with_2014_names: bool) -> Section:
    """A section of keystoneauth's options. The spelling of 2014 stood in [DEFAULT]: admin_user, admin_tenant_name …"""

    def names(*spellings: str) -> list[cfg.DeprecatedOpt]:
        here = [old(spelling, name) for spelling in spellings]
        return [*here, *(old(spelling) for spelling in spellings)] if with_2014_names else here

    auth_url_names = [old("auth_url")] if with_2014_names else []
    return Section(
        name,
        (
            cfg.URIOpt(
                "auth_url",
                schemes=["http", "https"],
                deprecated_opts=auth_url_names,
                help="The identity service, http://controller:5000/v3. An address that ends in /v2.0 is led to /v3.",
            ),
            cfg.StrOpt(
                "auth_type",
                default="password",
                choices=["password", "v3password"],
                deprecated_opts=[old("auth_plugin", name)],
                help="How to prove who we are.",
            ),
            cfg.StrOpt(
                "username",
                deprecated_opts=[old("user_name", name), old("user-name", name), *names("admin_user")],
                help="The service user.",
            ),
            cfg.StrOpt("password", secret=True, deprecated_opts=names("admin_password"), help="Its password."),
            cfg.StrOpt(
                "project_name",
                default="service",
                deprecated_opts=[old("tenant_name", name), old("tenant-name", name), *names("admin_tenant_name")],
                help="The project it acts in.",
            ),
            cfg.StrOpt("user_domain_name", default="Default", help="The user's domain."),
            cfg.StrOpt("project_domain_name", default="Default", help="The project's domain."),
            cfg.StrOpt("region_name", deprecated_opts=names("auth_region"), help="Take services of this region."),
            cfg.StrOpt("cafile", help="The certificate authorities that vouch for the identity service."),
            cfg.BoolOpt("insecure", default=False, help="Take any certificate."),
        ),
        purpose,
    )
