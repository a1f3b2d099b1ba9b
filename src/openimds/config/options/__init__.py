"""The oslo.config options of all programs, in one module per kind of program.

- `common`: options of all programs, and the database of the APIs.
- `apis`: options of the metadata API and the control API.
- `documents`: options of the documents that instances read, and of strict request checks.
- `agents`: options of the agents.
- `keystone`: options of an identity service, as in keystoneauth.
"""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg, types

DEFAULT = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Section:
    """A section `[name]` of a configuration file with its options."""

    name: str
    options: tuple[cfg.Opt, ...]
    help: str = ""


def deprecated(name: str, section: str = DEFAULT) -> cfg.DeprecatedOpt:
    """A deprecated name of an option, which is accepted with a warning that states the current name."""
    return cfg.DeprecatedOpt(name, group=section)


def seconds(*, minimum: float, maximum: float = 86400) -> types.Number:
    """The type of a time in seconds, which may have a fraction."""
    return types.Float(min=minimum, max=maximum)
