"""One table: a program, the files it reads, its options, and how its value is built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from openimds.config import builders
from openimds.config.builders import addresses_led_to_v3
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
from openimds.config.validator import likely_misspellings

ConfigT_co = TypeVar("ConfigT_co", bound=CommonConfig, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Generic[ConfigT_co]):
    """A program as its configuration sees it."""

    name: str
    """`dhcp-agent`, as on the command line."""
    summary: str
    files: tuple[str, ...]
    """The names of the files it reads, in order; where they are is the operator's business."""
    sections: tuple[Section, ...]
    build: Callable[[OptionValues, Mapping[str, Any]], ConfigT_co]

    def load(self, files: Sequence[str]) -> ConfigT_co:
        """The value from `files`, later ones win. Raises ConfigError with a sentence for everything that is wrong."""
        values = load(files, self.sections)
        warnings = (
            *values.warnings,
            *addresses_led_to_v3(values, self.sections),
            *likely_misspellings(values.files, all_sections()),
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
    summary="The OpenStack subset that people and agents talk to: identity, network, compute, image.",
    files=("nova.conf",),
    sections=(
        common.COMMON,
        common.METRICS,
        common.DATABASE,
        apis.CONTROL_API,
        documents.DOCUMENTS,
        documents.IMDS,
    ),
    build=builders.control_api,
)
METADATA_API: Program[MetadataApiConfig] = Program(
    name="metadata-api",
    summary="Answers a signed request with the instance's documents.",
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
    summary="Finds out who is asking, signs, and forwards to the metadata API.",
    files=("neutron.conf", "metadata_agent.ini"),
    sections=(
        *_AGENT,
        agents.METADATA_SOCKET,
        agents.METADATA_AGENT,
        documents.GUEST_REQUESTS,
        agents.CONNECTIONS_PER_GUEST,
        agents.RATE_LIMITING,
    ),
    build=builders.metadata_agent,
)
DHCP_AGENT: Program[DhcpAgentConfig] = Program(
    name="dhcp-agent",
    summary="Keeps the qdhcp- namespaces: dnsmasq, and metadata on isolated networks.",
    files=("neutron.conf", "dhcp_agent.ini"),
    sections=(*_AGENT, agents.DHCP_AGENT, *_PROXIES),
    build=builders.dhcp_agent,
)
L3_AGENT: Program[L3AgentConfig] = Program(
    name="l3-agent",
    summary="Keeps the qrouter- namespaces: forwarding, NAT, and metadata through the router.",
    files=("neutron.conf", "l3_agent.ini"),
    sections=(*_AGENT, agents.L3_AGENT, *_PROXIES),
    build=builders.l3_agent,
)
COMPUTE_AGENT: Program[ComputeAgentConfig] = Program(
    name="compute-agent",
    summary="Plugs instances' ports, runs instances by a driver, and keeps port security.",
    files=("neutron.conf", "compute_agent.ini"),
    sections=(*_AGENT, agents.RESYNC, agents.COMPUTE_AGENT, agents.GUEST),
    build=builders.compute_agent,
)

PROGRAMS: Mapping[str, Program[CommonConfig]] = {
    program.name: program
    for program in (CONTROL_API, METADATA_API, METADATA_AGENT, DHCP_AGENT, L3_AGENT, COMPUTE_AGENT)
}
"""In the order in which `openimds up` starts them."""


def all_sections() -> tuple[Section, ...]:
    """The sections of all programs: a file may be read by several of them."""
    return tuple(section for program in PROGRAMS.values() for section in program.sections)


def programs_of(name: str) -> tuple[Program[CommonConfig], ...]:
    """The program of that name, or all that read a file of that name; empty: there is neither."""
    if name in PROGRAMS:
        return (PROGRAMS[name],)
    return tuple(program for program in PROGRAMS.values() if name in program.files)


load_control_api = CONTROL_API.load
load_metadata_api = METADATA_API.load
load_metadata_agent = METADATA_AGENT.load
load_dhcp_agent = DHCP_AGENT.load
load_l3_agent = L3_AGENT.load
load_compute_agent = COMPUTE_AGENT.load
