"""Images, in Glance's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

DISK_FORMATS = ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop")
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
VISIBILITIES = ("public", "private", "shared", "community")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: str
    owner: str
    name: str | None
    status: str
    """`queued` (no data yet), `saving`, `active`."""
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
    """Which images to list; everything given must hold."""

    project_id: str
    everybodys: bool = False
    """An administrator's view: private ones of other projects, too."""
    equal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attribute (`name`, `status`, `owner`, `disk_format` …) → the values that will do."""
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool = False
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    size_min: int | None = None
    size_max: int | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, descending) pairs; newest first where it is empty."""
