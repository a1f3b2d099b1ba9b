"""Request bodies of Nova's API. Unknown fields are invalid, as in Nova."""

from __future__ import annotations

import ipaddress
import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from openimds.metadata.imds_options import invalid_properties

METADATA_MAX_CHARS = 255
TAG_MAX_CHARS = 60
MAX_TAGS = 50
MAX_LIST = 128
"""Maximum number of networks and of security groups in one request."""
MAX_BASE64_CHARS = 2**17
"""Beyond the limits of user data and files, whose errors name these limits."""


def _uuid(text: str) -> str:
    try:
        uuid.UUID(text)
    except ValueError as error:
        raise ValueError("is not a UUID") from error
    return text


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("is not an IP address") from error


def _ip_or_empty(text: str) -> str:
    return _ip(text) if text else ""


def _plain_name(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise ValueError("must not be blank")
    if any(ord(char) < 32 or ord(char) == 127 for char in stripped):
        raise ValueError("must not contain control characters")
    return stripped


def _hostname(text: str) -> str:
    if not re.fullmatch(
        r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*", text
    ):
        raise ValueError("is not a host name: letters, digits and hyphens, at most 63 a label")
    return text


def _metadata_key(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_:. -]{1,255}", text):
        raise ValueError("is 1 to 255 letters, digits, spaces and -_:.")
    return text


def _imds_properties(metadata: dict[str, str]) -> dict[str, str]:
    """Validates the `imds:` properties. A misspelled property would silently leave an instance unprotected."""
    for _name, sentence in invalid_properties(metadata):
        raise ValueError(sentence)
    return metadata


def _tag(text: str) -> str:
    if not text or len(text) > TAG_MAX_CHARS or "/" in text or "," in text:
        raise ValueError(f"is 1 to {TAG_MAX_CHARS} characters without / and ,")
    return text


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Uuid = Annotated[str, AfterValidator(_uuid)]
Ip = Annotated[str, AfterValidator(_ip)]
AccessIp = Annotated[str, AfterValidator(_ip_or_empty)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain_name)]
Hostname = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_hostname)]
Description = Annotated[str, Field(max_length=255)]
MetadataKey = Annotated[str, AfterValidator(_metadata_key)]
MetadataValue = Annotated[str, Field(max_length=METADATA_MAX_CHARS)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], AfterValidator(_imds_properties)]
Tag = Annotated[str, AfterValidator(_tag)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS)]
TextOrNumber = Annotated[str, BeforeValidator(_text)]
DiskConfig = Literal["AUTO", "MANUAL"]


class ComputeModel(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=False, str_max_length=255)
    """Texts without a limit of their own have at most 255 characters."""


class NetworkRef(ComputeModel):
    uuid: Uuid | None = None
    port: Uuid | None = None
    fixed_ip: Ip | None = None
    tag: Tag | None = None


class SecurityGroupRef(ComputeModel):
    name: Annotated[str, Field(min_length=1, max_length=255)]


class PersonalityFile(ComputeModel):
    path: Annotated[str, Field(min_length=1, max_length=255)]
    contents: Annotated[str, Field(max_length=MAX_BASE64_CHARS)]


class BlockDeviceMapping(BaseModel):
    """A block device. Only the boot from the server's image is supported; the other fields exist so that they get a 501."""

    model_config = ConfigDict(extra="allow")
    boot_index: int | str | None = None
    source_type: str = "volume"
    destination_type: str | None = None
    uuid: str | None = None
    tag: str | None = None


class ServerFields(ComputeModel):
    name: Name
    image_ref: str | None = Field(None, alias="imageRef")
    flavor_ref: TextOrNumber = Field(alias="flavorRef", min_length=1)
    key_name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    user_data: Annotated[str, Field(max_length=MAX_BASE64_CHARS)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    personality: list[PersonalityFile] | None = None
    availability_zone: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    host: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    hypervisor_hostname: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    networks: Annotated[list[NetworkRef], Field(max_length=MAX_LIST)] | Literal["auto", "none"] | None = None
    security_groups: Annotated[list[SecurityGroupRef], Field(max_length=MAX_LIST)] | None = None
    min_count: Annotated[int, Field(ge=1)] | None = None
    max_count: Annotated[int, Field(ge=1)] | None = None
    return_reservation_id: bool = False
    config_drive: bool | None = None
    description: Description | None = None
    hostname: Hostname | None = None
    tags: Tags | None = None
    access_ip_v4: AccessIp | None = Field(None, alias="accessIPv4")
    access_ip_v6: AccessIp | None = Field(None, alias="accessIPv6")
    disk_config: DiskConfig | None = Field(None, alias="OS-DCF:diskConfig")
    block_device_mapping: list[dict[str, Any]] | None = None
    block_device_mapping_v2: list[BlockDeviceMapping] | None = None
    admin_pass: str | None = Field(None, alias="adminPass")
    trusted_image_certificates: list[str] | None = None


class ServerCreate(ComputeModel):
    server: ServerFields
    scheduler_hints: dict[str, Any] | None = Field(None, alias="os:scheduler_hints")
    old_scheduler_hints: dict[str, Any] | None = Field(None, alias="OS-SCH-HNT:scheduler_hints")


class ServerChanges(ComputeModel):
    name: Name | None = None
    description: Description | None = None
    hostname: Hostname | None = None
    access_ip_v4: AccessIp | None = Field(None, alias="accessIPv4")
    access_ip_v6: AccessIp | None = Field(None, alias="accessIPv6")
    disk_config: DiskConfig | None = Field(None, alias="OS-DCF:diskConfig")


class ServerUpdate(ComputeModel):
    server: ServerChanges


class RebuildFields(ComputeModel):
    image_ref: str = Field(alias="imageRef", min_length=1)
    name: Name | None = None
    hostname: Hostname | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    personality: list[PersonalityFile] | None = None
    user_data: Annotated[str, Field(max_length=MAX_BASE64_CHARS)] | None = None
    key_name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    access_ip_v4: AccessIp | None = Field(None, alias="accessIPv4")
    access_ip_v6: AccessIp | None = Field(None, alias="accessIPv6")
    disk_config: DiskConfig | None = Field(None, alias="OS-DCF:diskConfig")
    preserve_ephemeral: bool | None = None
    admin_pass: str | None = Field(None, alias="adminPass")
    trusted_image_certificates: list[str] | None = None


class RebootFields(ComputeModel):
    type: Annotated[str, Field(pattern="^(?i:soft|hard)$")]


class ConsoleFields(ComputeModel):
    length: Annotated[int, Field(ge=-1)] | None = None


class LockFields(ComputeModel):
    locked_reason: str | None = None


class MetadataBody(ComputeModel):
    metadata: Metadata


class MetadataItem(ComputeModel):
    meta: Annotated[Metadata, Field(min_length=1, max_length=1)]


class TagsBody(ComputeModel):
    tags: Tags


class FixedIpRef(ComputeModel):
    ip_address: Ip


class AttachFields(ComputeModel):
    net_id: Uuid | None = None
    port_id: Uuid | None = None
    fixed_ips: Annotated[list[FixedIpRef], Field(max_length=1)] | None = None
    tag: Tag | None = None


class InterfaceAttach(ComputeModel):
    interface: AttachFields = Field(default_factory=AttachFields, alias="interfaceAttachment")


class KeypairFields(ComputeModel):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_@. -]{1,255}$")]
    public_key: Annotated[str, Field(min_length=1, max_length=65535)] | None = None
    type: Literal["ssh", "x509"] = "ssh"
    user_id: str | None = None


class KeypairCreate(ComputeModel):
    keypair: KeypairFields


class FlavorFields(ComputeModel):
    name: Name
    id: Annotated[TextOrNumber, Field(max_length=36)] | None = None
    ram: Annotated[int, Field(ge=1, le=2**31 - 1)]
    vcpus: Annotated[int, Field(ge=1, le=2**31 - 1)]
    disk: Annotated[int, Field(ge=0, le=2**31 - 1)]
    ephemeral: Annotated[int, Field(ge=0, le=2**31 - 1, alias="OS-FLV-EXT-DATA:ephemeral")] = 0
    swap: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    rxtx_factor: float | None = None
    is_public: bool = Field(True, alias="os-flavor-access:is_public")
    description: Annotated[str, Field(max_length=65535)] | None = None


class FlavorCreate(ComputeModel):
    flavor: FlavorFields


class FlavorChanges(ComputeModel):
    description: Annotated[str, Field(max_length=65535)] | None


class FlavorUpdate(ComputeModel):
    flavor: FlavorChanges


SpecKey = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_:. -]{1,255}$")]
SpecValue = Annotated[TextOrNumber, Field(max_length=255)]


class ExtraSpecs(ComputeModel):
    extra_specs: dict[SpecKey, SpecValue]
