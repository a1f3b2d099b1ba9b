"""Images, with Glance's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

DiskFormat = Literal["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"]
ContainerFormat = Literal["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"]
Visibility = Literal["public", "private", "shared", "community"]

DISK_FORMATS: tuple[str, ...] = get_args(DiskFormat)
CONTAINER_FORMATS: tuple[str, ...] = get_args(ContainerFormat)
VISIBILITIES: tuple[str, ...] = get_args(Visibility)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: str
    owner: str
    name: str | None
    status: str
    """`queued` (without data), `saving` or `active`."""
    visibility: str
    container_format: str | None
    disk_format: str | None
    min_disk_gib: int
    min_ram_mib: int
    size_bytes: int | None
    checksum: str | None
    hash_algo: str | None
    hash_value: str | None
    protected: bool
    hidden: bool
    properties: Mapping[str, str]
    tags: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuery:
    """Filters of an image list. An image must match all of them."""

    project_id: str
    all_projects: bool = False
    """If True, private images of other projects are listed too. Set for administrators."""
    equal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attribute (`name`, `status`, `owner`, `disk_format` …) → accepted values."""
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool = False
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    size_min: int | None = None
    size_max: int | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, descending) pairs. If empty, the newest image is first."""
