"""Metadata options of an instance: the deployment's defaults, overridden by properties of the server.

A property's name is `imds:` and EC2's name of the option (`aws ec2 modify-instance-metadata-options`):

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
    """Handling of session tokens in one tree of documents."""

    OFF = "off"
    """Tokens are neither issued nor checked."""
    OPTIONAL = "optional"
    """A request may have no token, but an invalid token is an error."""
    REQUIRED = "required"
    """Reads need a valid token."""

    @property
    def strictness(self) -> int:
        return _STRICTNESS.index(self)


_STRICTNESS = (TokenMode.OFF, TokenMode.OPTIONAL, TokenMode.REQUIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImdsOptions:
    """Metadata options of one instance, or the deployment's defaults."""

    http_tokens: TokenMode = TokenMode.OPTIONAL
    """Tokens in the EC2 tree."""
    openstack_tokens: TokenMode = TokenMode.OPTIONAL
    """Tokens in the tree /openstack. A separate option, because its clients (cloud-init's OpenStack source) send none."""
    http_endpoint: bool = True
    """If False, each request is answered with 403."""
    http_put_response_hop_limit: int = 1
    """IP TTL of the response that carries a token: 1 to 64."""
    instance_metadata_tags: bool = False
    """If True, the server's metadata are readable at meta-data/tags/instance/."""
    root_only: bool = False
    """If True, requests from a source port of 1024 or above are answered with 403. Only root in the instance can bind a
    lower port."""
    user_data_minutes: int = 0
    """User data are readable for this many minutes after the launch; later they are a 403. 0 if the time is not limited."""
    tokens_are_enforced: bool = False
    """A setting of the deployment only. If True, a server's properties can make tokens, root_only and user_data_minutes
    stricter than the defaults, but never weaker."""


@dataclass(frozen=True, slots=True)
class Property:
    """A server property that sets one field of ImdsOptions."""

    field: str
    values: Mapping[str, Any]
    expected: str
    """The allowed values, for error messages: `optional, required or off`."""


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
"""Property name → field and values. Values are case-insensitive."""


def effective_options(metadata: Mapping[str, str], default: ImdsOptions) -> ImdsOptions:
    """The options of a server with these properties. A property with an invalid value counts as not set."""
    changes = {
        known.field: known.values[word]
        for name, known in PROPERTIES.items()
        if name in metadata and (word := _word(metadata[name])) in known.values
    }
    if not changes:
        return default
    requested = replace(default, **changes)
    return _not_weaker(requested, default) if default.tokens_are_enforced else requested


def invalid_properties(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields (property, error message) for each `imds:` property with an unknown name or an invalid value."""
    for name, value in metadata.items():
        known = PROPERTIES.get(name)
        if known is not None and _word(value) not in known.values:
            yield name, f"{name} is {known.expected}"
        elif known is None and name.startswith(PREFIX):
            yield name, f"{name} is no property of the metadata service; there are {', '.join(PROPERTIES)}"


def _not_weaker(requested: ImdsOptions, default: ImdsOptions) -> ImdsOptions:
    return replace(
        requested,
        http_tokens=max(requested.http_tokens, default.http_tokens, key=lambda mode: mode.strictness),
        openstack_tokens=max(requested.openstack_tokens, default.openstack_tokens, key=lambda mode: mode.strictness),
        root_only=requested.root_only or default.root_only,
        user_data_minutes=_shortest(requested.user_data_minutes, default.user_data_minutes),
    )


def _shortest(requested: int, default: int) -> int:
    return min(filter(None, (requested, default)), default=0)


def _word(value: str) -> str:
    return value.strip().lower()
