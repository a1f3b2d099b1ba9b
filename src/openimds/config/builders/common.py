"""Identity v2.0 went out of OpenStack in 2018; configuration files of before still name its address.

Checked option values → fields of a program's frozen value: what both APIs and agents have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openimds.config.ini_reader import ConfigError
from openimds.config.loader import OptionValues
from openimds.config.options import DEFAULT, Section
from openimds.config.options import common as common_options
from openimds.config.settings import Listen, LogConfig
from openimds.resources.auth import AuthOptions


def led_to_v3(auth_url: str) -> str:
    """`http://controller:5000/v2.0` → `http://controller:5000/v3`; others stay as they are."""
    return re.sub(r"/v2\.0/?$", "/v3", auth_url)


def addresses_led_to_v3(values: OptionValues, sections: Sequence[Section]) -> Iterator[str]:
    """A sentence for each auth_url that ends in /v2.0."""
    for section in sections:
        url: Any = values.values.get((section.name, "auth_url"))
        if url and led_to_v3(url) != url:
            place = values.where(section, "auth_url")
            yield f"{place}: identity v2.0 is no more: {led_to_v3(url)} is asked instead; write that"


Common = Mapping[str, Any]
"""The fields of CommonConfig."""


def common(program: str, values: OptionValues) -> dict[str, Any]:
    """The fields that every program's value has, but for `warnings`."""
    port = values["metrics", "port"]
    return {
        "program": program,
        "config_files": tuple(file.path for file in values.files),
        "state_path": _absolute(values, common_options.COMMON, "state_path"),
        "host": values[DEFAULT, "host"],
        "namespace_prefix": values[DEFAULT, "namespace_prefix"],
        "log": LogConfig(debug=values[DEFAULT, "debug"], format=values[DEFAULT, "log_format"]),
        "metrics": Listen(values["metrics", "listen"], port) if port else None,
    }


def auth(values: OptionValues, section: Section) -> AuthOptions:
    """How to log in, from a section with keystone's options. Raises ConfigError for each that must be set and is not."""
    name = section.name
    needed = ("auth_url", "username", "password")
    missing = [option for option in needed if not values[name, option]]
    if missing:
        raise ConfigError([f"[{name}] {option} is not set in {_file_names(values)}; set it" for option in missing])
    return AuthOptions(
        auth_url=led_to_v3(values[name, "auth_url"]),
        username=values[name, "username"],
        password=values[name, "password"],
        project_name=values[name, "project_name"],
        user_domain_name=values[name, "user_domain_name"],
        project_domain_name=values[name, "project_domain_name"],
        region_name=values[name, "region_name"],
        cafile=values[name, "cafile"],
        insecure=values[name, "insecure"],
    )


def strict_hosts(values: OptionValues, section: str) -> tuple[str, ...] | None:
    """The Host headers that guests may send; None: requests are not looked at strictly."""
    return tuple(values[section, "allowed_hosts"]) if values[section, "strict_requests"] else None


def _absolute(values: OptionValues, section: Section, name: str) -> Path:
    path = Path(values[section.name, name])
    if not path.is_absolute():
        raise ConfigError([f"{values.where(section, name)}: is not valid: write a path that begins with /"])
    return path


def _file_names(values: OptionValues) -> str:
    return ", ".join(file.path for file in values.files) or "any file: none was given with --config-file"
