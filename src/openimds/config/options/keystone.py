"""The options of an identity service and its credentials, as in keystoneauth."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from oslo_config import cfg

from openimds.config.options import Section, deprecated

PASSWORD_PLUGINS = ("password", "v3password")
"""The plugins whose options this module declares, with their old names."""


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
                deprecated_opts=[deprecated("auth_plugin", name)],
                help="The authentication method: any plugin of keystoneauth, such as v3applicationcredential, with its options"
                " in this section.",
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


def plugin_options(auth_type: str) -> tuple[cfg.Opt, ...]:
    """The options of a plugin of keystoneauth. Raises ValueError with the names of all plugins for an unknown one."""
    from keystoneauth1 import exceptions, loading  # noqa: PLC0415 - stevedore reads the entry points of all packages

    try:
        loader: Any = loading.get_plugin_loader(auth_type)
    except exceptions.NoMatchingPlugin:
        names = ", ".join(sorted(loading.get_available_plugin_names()))
        raise ValueError(f"keystoneauth has no plugin {auth_type}; there are {names}") from None
    return tuple(option._to_oslo_opt() for option in loader.get_options())  # noqa: SLF001 - as in keystoneauth's loading.conf


@cache
def plugin_option_names() -> frozenset[str]:
    """The names of the options of all plugins."""
    from keystoneauth1 import loading  # noqa: PLC0415

    options = (option for name in loading.get_available_plugin_names() for option in plugin_options(name))
    return frozenset(name.replace("-", "_") for option in options for name in _names(option))


def without_default(option: cfg.Opt) -> cfg.Opt:
    """The option as one that may be absent."""
    optional = copy.copy(option)
    optional.default, optional.required = None, False
    return optional


def _names(option: cfg.Opt) -> list[str]:
    return [option.dest, *(old.name for old in option.deprecated_opts if old.name)]
