"""The options of an identity service and its credentials, as in keystoneauth."""

from __future__ import annotations

from oslo_config import cfg

from openimds.config.options import Section, deprecated


def keystone_section(name: str, *, purpose: str, with_2014_names: bool) -> Section:
    """A section of keystoneauth's options.

    `with_2014_names` adds the names of 2014, which were in [DEFAULT]: admin_user, admin_tenant_name …
    """

    def names(*option_names: str) -> list[cfg.DeprecatedOpt]:
        here = [deprecated(spelling, name) for spelling in option_names]
        return [*here, *(deprecated(spelling) for spelling in option_names)] if with_2014_names else here

    auth_url_names = [deprecated("auth_url")] if with_2014_names else []
    return Section(
        name,
        (
            cfg.URIOpt(
                "auth_url",
                schemes=["http", "https"],
                deprecated_opts=auth_url_names,
                help="The identity service, http://controller:5000/v3. /v2.0 at the end of an address is replaced by /v3.",
            ),
            cfg.StrOpt(
                "auth_type",
                default="password",
                choices=["password", "v3password"],
                deprecated_opts=[deprecated("auth_plugin", name)],
                help="The authentication method.",
            ),
            cfg.StrOpt(
                "username",
                deprecated_opts=[deprecated("user_name", name), deprecated("user-name", name), *names("admin_user")],
                help="The service user.",
            ),
            cfg.StrOpt(
                "password",
                secret=True,
                deprecated_opts=names("admin_password"),
                help="The password of the service user.",
            ),
            cfg.StrOpt(
                "project_name",
                default="service",
                deprecated_opts=[
                    deprecated("tenant_name", name),
                    deprecated("tenant-name", name),
                    *names("admin_tenant_name"),
                ],
                help="The project of the service user.",
            ),
            cfg.StrOpt("user_domain_name", default="Default", help="The domain of the user."),
            cfg.StrOpt("project_domain_name", default="Default", help="The domain of the project."),
            cfg.StrOpt("region_name", deprecated_opts=names("auth_region"), help="The region whose services are used."),
            cfg.StrOpt("cafile", help="The CA certificates that verify the identity service, as a PEM file."),
            cfg.BoolOpt("insecure", default=False, help="Do not verify the certificate of the identity service."),
        ),
        purpose,
    )
