"""The table of programs: their files, their options, and the function that builds their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from openimds.config import builders
from openimds.config.builders import v2_address_warnings
from openimds.config.loader import OptionValues, load
from openimds.config.options import Section, agents, apis, common, documents
from openimds.config.settings import (
    CommonConfig,
    ComputeAgentConfig,
    ControlApiConfig,
    DhcpAgentConfig,
    L3AgentConfig,
    MetadataAgentConfig,
    MetadataApiConfig,
)
from openimds.config.validator import misspelling_warnings

ConfigT_co = TypeVar("ConfigT_co", bound=CommonConfig, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Generic[ConfigT_co]):
    """A program and its configuration."""

    name: str
    """The name on the command line, such as `dhcp-agent`."""
    summary: str
    files: tuple[str, ...]
    """The names of its configuration files, in the order of reading."""
    sections: tuple[Section, ...]
    build: Callable[[OptionValues, Mapping[str, Any]], ConfigT_co]

    def load(self, files: Sequence[str]) -> ConfigT_co:
        """Loads the configuration. Later files override earlier ones. Raises ConfigError with all problems."""
        values = load(files, self.sections)
        warnings = (
            *values.warnings,
            *v2_address_warnings(values, self.sections),
            *misspelling_warnings(values.files, self.sections, all_sections()),
        )
        return self.build(values, builders.common(self.name, values) | {"warnings": warnings})


_AGENT = (common.COMMON, common.METRICS, agents.AGENT, agents.KEYSTONE_AUTHTOKEN)
_PROXIES = (
    agents.RESYNC,
    agents.METADATA_PROXY,
    agents.METADATA_SOCKET,
    agents.METADATA_HAPROXY,
    agents.RATE_LIMITING,
)

CONTROL_API: Program[ControlApiConfig] = Program(
    name="control-api",
    summary="Serves the identity, network, compute and image APIs to users and agents.",
    files=("nova.conf",),
    sections=(
        common.COMMON,
        common.METRICS,
        common.DATABASE,
        apis.CONTROL_API,
        apis.OSLO_POLICY,
        documents.DOCUMENTS,
        documents.IMDS,
    ),
    build=builders.control_api,
)
METADATA_API: Program[MetadataApiConfig] = Program(
    name="metadata-api",
    summary="Serves the documents of instances to metadata agents, which sign their requests.",
    files=("nova.conf",),
    sections=(
        common.COMMON,
        common.METRICS,
        common.DATABASE,
        apis.NOVA,
        apis.WSGI,
        documents.GUEST_REQUESTS,
        apis.NOVA_NEUTRON,
        documents.DOCUMENTS,
        apis.NOVA_API,
        documents.IMDS,
        apis.VENDORDATA_AUTH,
    ),
    build=builders.metadata_api,
)
METADATA_AGENT: Program[MetadataAgentConfig] = Program(
    name="metadata-agent",
    summary="Identifies the instance of a metadata request and serves it, or signs and forwards the request to the metadata API.",
    files=("neutron.conf", "metadata_agent.ini"),
    sections=(
        *_AGENT,
        agents.METADATA_SOCKET,
        agents.METADATA_AGENT,
        agents.NOTIFICATIONS,
        documents.GUEST_REQUESTS,
        agents.CONNECTIONS_PER_GUEST,
        agents.RATE_LIMITING,
    ),
    build=builders.metadata_agent,
)
DHCP_AGENT: Program[DhcpAgentConfig] = Program(
    name="dhcp-agent",
    summary="Manages the qdhcp- namespaces: dnsmasq, and metadata on isolated networks.",
    files=("neutron.conf", "dhcp_agent.ini"),
    sections=(*_AGENT, agents.DHCP_AGENT, *_PROXIES),
    build=builders.dhcp_agent,
)
L3_AGENT: Program[L3AgentConfig] = Program(
    name="l3-agent",
    summary="Manages the qrouter- namespaces: forwarding, NAT, and metadata through the router.",
    files=("neutron.conf", "l3_agent.ini"),
    sections=(*_AGENT, agents.L3_AGENT, *_PROXIES),
    build=builders.l3_agent,
)
COMPUTE_AGENT: Program[ComputeAgentConfig] = Program(
    name="compute-agent",
    summary="Plugs the ports of instances, runs instances with a driver, and applies port security.",
    files=("neutron.conf", "compute_agent.ini"),
    sections=(*_AGENT, agents.RESYNC, agents.COMPUTE_AGENT, agents.GUEST),
    build=builders.compute_agent,
)

PROGRAMS: Mapping[str, Program[CommonConfig]] = {
    program.name: program
    for program in (CONTROL_API, METADATA_API, METADATA_AGENT, DHCP_AGENT, L3_AGENT, COMPUTE_AGENT)
}
"""All programs by name, in the start order of `openimds up`."""


def all_sections() -> tuple[Section, ...]:
    """The sections of all programs. Several programs may read the same file."""
    return tuple(section for program in PROGRAMS.values() for section in program.sections)


def programs_of(name: str) -> tuple[Program[CommonConfig], ...]:
    """The program of that name, or all programs that read a file of that name. Empty if the name is unknown."""
    if name in PROGRAMS:
        return (PROGRAMS[name],)
    return tuple(program for program in PROGRAMS.values() if name in program.files)


load_control_api = CONTROL_API.load
load_metadata_api = METADATA_API.load
load_metadata_agent = METADATA_AGENT.load
load_dhcp_agent = DHCP_AGENT.load
load_l3_agent = L3_AGENT.load
load_compute_agent = COMPUTE_AGENT.load
