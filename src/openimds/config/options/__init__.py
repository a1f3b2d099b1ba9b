"""What may stand in a configuration file, said in few words: a section, an old name, a time, and what several have."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg, types

DEFAULT = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a configuration file: `[name]`, and what may stand in it."""

    name: str
    options: tuple[cfg.Opt, ...]
    help: str = ""


def old(name: str, section: str = DEFAULT) -> cfg.DeprecatedOpt:
    """An old spelling of an option: still taken, with a warning that tells the new one."""
    return cfg.DeprecatedOpt(name, group=section)


def seconds(*, minimum: float, maximum: float = 86400) -> types.Number:
    """A time that need not be whole."""
    return types.Float(min=minimum, max=maximum)
