"""Configuration: oslo.config option groups, turned into one frozen value a program.

Imported by `daemons/` and `cli/` alone. Four steps, one file each:

- `…_options.py`, put together from `sections.py`: which options there are, with help texts, ranges and old names;
- `reading.py`: a file's lines, with their numbers; `loading.py`: files → checked values;
- `programs.py`: one table: a program, its files, its options, and how its value is built;
- `validation.py`, `sample.py`: what `openimds config validate` and `config sample` say, from the same table.
"""

from __future__ import annotations

from openimds.config.ini_reader import ConfigError
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
]
