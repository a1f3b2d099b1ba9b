"""The server's metadata as EC2's instance tags, meta-data/tags/instance/<Key>, where its owner allows it."""

from __future__ import annotations

from collections.abc import Mapping

from openimds.metadata.imds_options import PREFIX, Policy, policy_of

_NO_NAMES = frozenset({".", "..", "_index", "_name"})
"""What a path cannot have as a name, EC2's own reserved one, and that of a label (ec2.py)."""


def readable_tags(metadata: Mapping[str, str], default: Policy) -> dict[str, str]:
    """Empty unless the instance allows it. Left out: properties that set its policy, and keys that no path can name."""
    if not policy_of(metadata, default).instance_metadata_tags:
        return {}
    return {key: value for key, value in metadata.items() if not key.startswith(PREFIX) and _is_name(key)}


def _is_name(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable() and "/" not in key and key not in _NO_NAMES
