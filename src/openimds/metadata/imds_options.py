"""How an instance's metadata may be read: what the deployment says, and what the server's own properties say.

The names are EC2's (`aws ec2 modify-instance-metadata-options`) behind `imds:`:

    openstack server set --property imds:HttpTokens=required --property imds:InstanceMetadataTags=enabled vm1
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

PREFIX = "imds:"
MAX_HOP_LIMIT = 64
MAX_USER_DATA_MINUTES = 1440


class TokenMode(enum.Enum):
    """Session tokens in one tree of documents."""

    OFF = "off"
    """As if they had never been invented: no token is given, none is looked at."""
    OPTIONAL = "optional"
    """Who sends one must send a good one."""
    REQUIRED = "required"
    """Nothing is read without one."""

    @property
    def strictness(self) -> int:
        return _STRICTNESS.index(self)


_STRICTNESS = (TokenMode.OFF, TokenMode.OPTIONAL, TokenMode.REQUIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImdsOptions:
    """Of one instance; as the deployment's default, of those that say nothing."""

    http_tokens: TokenMode = TokenMode.OPTIONAL
    """In the EC2 tree."""
    openstack_tokens: TokenMode = TokenMode.OPTIONAL
    """In the tree /openstack, whose clients send none (cloud-init's OpenStack source): a switch of its own."""
    http_endpoint: bool = True
    """False: 403 for everything."""
    http_put_response_hop_limit: int = 1
    """So many hops may the answer that carries a token go: 1 to 64."""
    instance_metadata_tags: bool = False
    """The server's metadata are readable at meta-data/tags/instance/."""
    root_only: bool = False
    """403 for requests from a port from 1024 on: only root of the guest opens a connection from one below."""
    user_data_minutes: int = 0
    """So long after its launch are the instance's user data read, then 403; 0: always."""
    tokens_are_enforced: bool = False
    """Of the deployment alone: a server's properties may ask for more than its defaults, never for less: of tokens, of
    root, of an end to user data."""

    @property
    def gives_tokens(self) -> bool:
        return self.http_tokens is not TokenMode.OFF or self.openstack_tokens is TokenMode.REQUIRED


@dataclass(frozen=True, slots=True)
class Property:
    """A server property: which of a policy's fields it sets, and its values in words."""

    field: str
    values: Mapping[str, Any]
    expected: str
    """For sentences: `optional, required or off`."""


_SWITCH = {"enabled": True, "disabled": False}

PROPERTIES: Mapping[str, Property] = {
    f"{PREFIX}HttpTokens": Property(
        "http_tokens", {mode.value: mode for mode in TokenMode}, "optional, required or off"
    ),
    f"{PREFIX}OpenStackTokens": Property(
        "openstack_tokens",
        {mode.value: mode for mode in (TokenMode.OPTIONAL, TokenMode.REQUIRED)},
        "optional or required",
    ),
    f"{PREFIX}HttpEndpoint": Property("http_endpoint", _SWITCH, "enabled or disabled"),
    f"{PREFIX}HttpPutResponseHopLimit": Property(
        "http_put_response_hop_limit",
        {str(hops): hops for hops in range(1, MAX_HOP_LIMIT + 1)},
        f"a number from 1 to {MAX_HOP_LIMIT}",
    ),
    f"{PREFIX}InstanceMetadataTags": Property("instance_metadata_tags", _SWITCH, "enabled or disabled"),
    f"{PREFIX}RootOnly": Property("root_only", _SWITCH, "enabled or disabled"),
    f"{PREFIX}UserDataMinutes": Property(
        "user_data_minutes",
        {str(minutes): minutes for minutes in range(MAX_USER_DATA_MINUTES + 1)},
        f"a number from 0 to {MAX_USER_DATA_MINUTES}",
    ),
}
"""Values are read in any letter case."""


def policy_of(metadata: Mapping[str, str], default: ImdsOptions) -> ImdsOptions:
    """The policy of a server with these properties; one that cannot be read counts as not set."""
    changes = {
        known.field: known.values[word]
        for name, known in PROPERTIES.items()
        if name in metadata and (word := _word(metadata[name])) in known.values
    }
    if not changes:
        return default
    asked = replace(default, **changes)
    return _at_least(asked, default) if default.tokens_are_enforced else asked


def invalid_properties(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(property, a sentence) for each that is ours and cannot be read: a misspelt name, a value that is none."""
    for name, value in metadata.items():
        known = PROPERTIES.get(name)
        if known is not None and _word(value) not in known.values:
            yield name, f"{name} is {known.expected}"
        elif known is None and name.startswith(PREFIX):
            yield name, f"{name} is no property of the metadata service; there are {', '.join(PROPERTIES)}"


def _at_least(asked: ImdsOptions, default: ImdsOptions) -> ImdsOptions:
    return replace(
        asked,
        http_tokens=max(asked.http_tokens, default.http_tokens, key=lambda mode: mode.strictness),
        openstack_tokens=max(asked.openstack_tokens, default.openstack_tokens, key=lambda mode: mode.strictness),
        root_only=asked.root_only or default.root_only,
        user_data_minutes=_sooner(asked.user_data_minutes, default.user_data_minutes),
    )


def _sooner(asked: int, default: int) -> int:
    return min(filter(None, (asked, default)), default=0)


def _word(value: str) -> str:
    return value.strip().lower()
