"""The configuration files, loaded into one frozen dataclass per program.

- `settings`: the dataclasses.
- `options`: the oslo.config options of each program, with help texts, ranges and old names.
- `programs`: the table of programs with their files, options and builders; the `load_…` functions.
- `ini_reader`: the lines of a configuration file with their numbers.
- `loader`: the checked option values of a list of files.
- `builders`: the functions that turn option values into the dataclass of a program.
- `validator`: the checks of `openimds config validate`.
- `generator`: the text of `openimds config sample` and of docs/configuration.md.
"""

from __future__ import annotations

from openimds.config.ini_reader import ConfigError
from openimds.config.loader import oslo_conf
from openimds.config.programs import (
    load_compute_agent,
    load_control_api,
    load_dhcp_agent,
    load_l3_agent,
    load_metadata_agent,
    load_metadata_api,
)
from openimds.config.settings import (
    AgentConfig,
    CommonConfig,
    ComputeAgentConfig,
    ControlApiConfig,
    DhcpAgentConfig,
    DocumentsConfig,
    HaproxyTimeouts,
    L3AgentConfig,
    Listen,
    LogConfig,
    MetadataAgentConfig,
    MetadataApiConfig,
    MetadataProxyConfig,
    RateLimitOptions,
    TlsFiles,
    VendorDataConfig,
)

__all__ = [
    "AgentConfig",
    "CommonConfig",
    "ComputeAgentConfig",
    "ConfigError",
    "ControlApiConfig",
    "DhcpAgentConfig",
    "DocumentsConfig",
    "HaproxyTimeouts",
    "L3AgentConfig",
    "Listen",
    "LogConfig",
    "MetadataAgentConfig",
    "MetadataApiConfig",
    "MetadataProxyConfig",
    "RateLimitOptions",
    "TlsFiles",
    "VendorDataConfig",
    "load_compute_agent",
    "load_control_api",
    "load_dhcp_agent",
    "load_l3_agent",
    "load_metadata_agent",
    "load_metadata_api",
    "oslo_conf",
]
