"""The EC2 tree: `/<version>/meta-data/…` and `/<version>/user-data`.

TABLE has one row for each key and the version that added it. A row returns the leaves below its key, and listings are
made from the leaves. `public-keys` is an exception, as it was at Amazon: its listing shows `0=mykey` for the sub-tree
`public-keys/0/`. The label itself is readable at `public-keys/0/_name`, but no listing shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from openimds.metadata.context import RenderContext
from openimds.metadata.devices import block_device_mapping
from openimds.metadata.imds_options import PREFIX, ImdsOptions, effective_options
from openimds.metadata.outcome import TEXT, Document, not_found
from openimds.metadata.paths import EC2_VERSIONS, ec2_listing, resolve
from openimds.resources.instance import NicAddress

_RESERVED_NAMES = frozenset({".", "..", "_index", "_name"})
"""Path segments that no tag can have: relative segments, EC2's reserved `_index`, and the label `_name`."""


def readable_tags(metadata: Mapping[str, str], default: ImdsOptions) -> dict[str, str]:
    """The server's metadata as instance tags (meta-data/tags/instance/<Key>). Empty unless InstanceMetadataTags is
    enabled. `imds:` properties and keys that cannot be a path segment are left out.
    """
    if not effective_options(metadata, default).instance_metadata_tags:
        return {}
    return {key: value for key, value in metadata.items() if not key.startswith(PREFIX) and _is_name(key)}


def _is_name(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable() and "/" not in key and key not in _RESERVED_NAMES


META_DATA = "meta-data"
USER_DATA = "user-data"
_LABEL = "_name"

Leaves = Mapping[str, object]
"""Path below the row's key → value. The path is empty if the row itself is a leaf. An unset value is shown as `None`, as
nova shows it."""


@dataclass(frozen=True, slots=True)
class Ec2Key:
    key: str
    """Path segment below meta-data/."""
    since: str
    leaves: Callable[[RenderContext], Leaves]
    """Returns no leaves if the instance does not have this key."""


def _leaf(value: Callable[[RenderContext], object]) -> Callable[[RenderContext], Leaves]:
    return lambda context: {"": value(context)}


def _leaf_if_set(value: Callable[[RenderContext], str | None]) -> Callable[[RenderContext], Leaves]:
    def leaves(context: RenderContext) -> Leaves:
        found = value(context)
        return {"": found} if found else {}

    return leaves


def _public_keys(context: RenderContext) -> Leaves:
    key = context.instance.key
    return {} if key is None else {f"0/{_LABEL}": f"0={key.name}", "0/openssh-key": key.public_key}


def _addresses(context: RenderContext) -> Iterator[NicAddress]:
    return (address for nic in context.instance.nics for subnet in nic.subnets for address in subnet.addresses)


def _local_ipv4(context: RenderContext) -> str | None:
    fixed = (address.ip_address for address in _addresses(context) if ":" not in address.ip_address)
    return next(fixed, context.address)


def _public_ipv4(context: RenderContext) -> str:
    return next((floating for address in _addresses(context) for floating in address.floating_ips), "")


def _tags(context: RenderContext) -> Leaves:
    tags = readable_tags(context.instance.metadata, context.settings.policy)
    return {f"instance/{key}": value for key, value in tags.items()}


TABLE = (
    Ec2Key("ami-id", "1.0", _leaf(lambda context: context.instance.ec2_ids.ami_id)),
    Ec2Key("ami-launch-index", "1.0", _leaf(lambda context: context.instance.launch_index)),
    Ec2Key("ami-manifest-path", "1.0", _leaf(lambda _context: "FIXME")),
    Ec2Key("instance-id", "1.0", _leaf(lambda context: context.instance.ec2_ids.instance_id)),
    Ec2Key("hostname", "1.0", _leaf(lambda context: context.hostname)),
    Ec2Key("local-ipv4", "1.0", _leaf(_local_ipv4)),
    Ec2Key("reservation-id", "1.0", _leaf(lambda context: context.instance.reservation_id)),
    Ec2Key("security-groups", "1.0", _leaf(lambda context: "\n".join(context.instance.security_groups))),
    Ec2Key("public-keys", "1.0", _public_keys),
    Ec2Key("local-hostname", "2007-01-19", _leaf(lambda context: context.hostname)),
    Ec2Key("public-hostname", "2007-01-19", _leaf(lambda context: context.hostname)),
    Ec2Key("public-ipv4", "2007-01-19", _leaf(_public_ipv4)),
    Ec2Key("instance-type", "2007-08-29", _leaf(lambda context: context.instance.flavor_name)),
    Ec2Key("block-device-mapping", "2007-12-15", lambda context: block_device_mapping(context.instance)),
    Ec2Key("kernel-id", "2007-12-15", _leaf_if_set(lambda context: context.instance.ec2_ids.kernel_id)),
    Ec2Key("ramdisk-id", "2007-12-15", _leaf_if_set(lambda context: context.instance.ec2_ids.ramdisk_id)),
    Ec2Key(
        "placement",
        "2008-02-01",
        lambda context: {"availability-zone": context.instance.availability_zone},
    ),
    Ec2Key("instance-action", "2008-09-01", _leaf(lambda _context: "none")),
    Ec2Key("tags", "2009-04-04", _tags),
)


def ec2_document(context: RenderContext, parts: tuple[str, ...]) -> Document:
    """The document at a path: (`latest`, `meta-data`, `hostname`) → the host name. Raises MetadataError (404)."""
    if not parts:
        return _text("\n".join(ec2_listing()))
    version = resolve(parts[0], EC2_VERSIONS)
    if version is None:
        raise not_found()
    user_data = context.instance.user_data
    match parts[1:]:
        case ():
            return _text(f"{META_DATA}/" if user_data is None else f"{META_DATA}/\n{USER_DATA}")
        case (word,) if word == USER_DATA and user_data is not None:
            return Document(200, TEXT, user_data)
        case (word, *below) if word == META_DATA:
            return _text(_leaf_or_listing("/".join(below), _leaves_of(context, version, below[0] if below else None)))
    raise not_found()


def _leaves_of(context: RenderContext, version: str, key: str | None) -> dict[str, str]:
    """Maps each readable path under meta-data/ to its text. `key` limits the result to one row."""
    return {
        f"{row.key}/{path}" if path else row.key: str(value)
        for row in TABLE
        if key in (None, row.key) and version >= row.since
        for path, value in row.leaves(context).items()
    }


def _leaf_or_listing(path: str, leaves: Mapping[str, str]) -> str:
    if path in leaves:
        return leaves[path]
    prefix = f"{path}/" if path else ""
    below = [leaf.removeprefix(prefix) for leaf in leaves if leaf.startswith(prefix)]
    if not below:
        raise not_found()
    names = sorted({leaf.partition("/")[0] for leaf in below} - {_LABEL})
    return "\n".join(_listing_entry(name, prefix, leaves) for name in names)


def _listing_entry(name: str, prefix: str, leaves: Mapping[str, str]) -> str:
    path = f"{prefix}{name}"
    if path in leaves:
        return name
    return leaves.get(f"{path}/{_LABEL}", f"{name}/")


def _text(text: str) -> Document:
    return Document(200, TEXT, text.encode())
