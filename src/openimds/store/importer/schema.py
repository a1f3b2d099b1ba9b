"""The schemas of import documents: the form of docs/guide/import.md, and Nova's form.

Every error names the field as the document has it: `instances[3].ports[0].mac_address`.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from openimds.resources.errors import BadRequest
from openimds.resources.network import DEVICE_ID_CHARS
from openimds.store.nova_objects import dedicated_cpus_from_topology, devices_from_metadata, nics_from_network_info

MAX_NUMBER = 2**31 - 1
"""The largest value of an integer column in both databases."""

_ADDRESS_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")
_KEY_TYPES = ("ssh", "x509")
_NOT_EMPTY = "it must be a text that is not empty"

_SENTENCES = {
    "missing": _NOT_EMPTY,
    "string_too_short": _NOT_EMPTY,
    "string_type": "it must be a text",
    "string_unicode": "it must be a text",
    "int_type": "it must be a whole number",
    "bool_type": "it must be true or false",
    "list_type": "it must be a list of objects",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
}
"""The sentence of each error of pydantic that these schemas can cause."""


def _matching(pattern: str, what: str) -> AfterValidator:
    """A check of a whole text. `what` completes the error: `is not like fa:16:3e:00:00:01`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text[:80]!r} is not {what}")
        return text

    return AfterValidator(check)


def _parsed(reader: Callable[[str], object], what: str) -> AfterValidator:
    """A conversion to the canonical text by `reader`, which raises ValueError."""

    def convert(text: str) -> str:
        try:
            return str(reader(text))
        except ValueError:
            raise ValueError(f"{text[:80]!r} is not {what}") from None

    return AfterValidator(convert)


def _one_of(values: tuple[str, ...], sentence: str) -> AfterValidator:
    def check(text: str) -> str:
        if text not in values:
            raise ValueError(f"{text!r} {sentence}")
        return text

    return AfterValidator(check)


def _between(low: int, high: int) -> AfterValidator:
    def check(number: int) -> int:
        if not 0 <= number <= high:
            raise ValueError(f"{number} is not between {low} and {high}")
        return number

    return AfterValidator(check)


def _base64(text: object) -> bytes:
    """The decoded bytes. White space is ignored."""
    if not isinstance(text, str):
        raise PydanticCustomError("string_type", "")
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None


def _time(value: object) -> datetime:
    """The time in UTC without a zone, as the tables contain it. YAML has times of its own."""
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{str(value)[:80]!r} is not a time like 2026-05-01T10:00:00Z") from None
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _texts(value: object) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise PydanticCustomError("texts", "it must be an object of texts")
    return dict(value)


def _listed_texts(value: object) -> object:
    if not isinstance(value, list):
        raise PydanticCustomError("texts", "it must be a list of texts")
    return value


def _readable(reader: Callable[[Any], object]) -> BeforeValidator:
    """A check that `reader` can decode the value, which stays as it is."""

    def check(value: object) -> object:
        try:
            reader(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error
        return value

    return BeforeValidator(check)


RequiredText = Annotated[str, Field(min_length=1)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]
Number = Annotated[int, _between(0, MAX_NUMBER)]
Uuid = Annotated[RequiredText, _parsed(UUID, "a UUID")]
MacAddress = Annotated[
    RequiredText,
    AfterValidator(str.lower),
    _matching(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "like fa:16:3e:00:00:01"),
]
Hostname = Annotated[RequiredText, _matching(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?", "a host name")]
Address = Annotated[RequiredText, _parsed(ip_address, "an address")]
Cidr = Annotated[RequiredText, _parsed(ip_network, "a network like 10.0.0.0/24")]
Addresses = Annotated[list[Address], BeforeValidator(_listed_texts)]
Names = Annotated[list[str], BeforeValidator(_listed_texts)]
Ec2Id = Annotated[RequiredText, _matching(r"[a-z]+-[0-9a-f]{8}", "like i-0000002a")]
Base64 = Annotated[bytes, BeforeValidator(_base64)]
Time = Annotated[datetime, BeforeValidator(_time)]


class ImportedObject(BaseModel):
    """An object of the document. A field with the value null has its default."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def parsed(cls, values: object, place: str) -> Self:
        """The object at `place` of the document. Raises BadRequest, which names the first wrong field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _bad_request(place, error.errors(include_url=False)[0]) from None


class StrictObject(ImportedObject):
    """An object in which an unknown field, which most often is a typing error, is an error."""

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: object) -> object:
        if isinstance(values, Mapping):
            unknown = sorted(str(name) for name in values if name not in cls.model_fields)
            if unknown:
                fields = ", ".join(sorted(cls.model_fields))
                raise _error_at(unknown[0], f"there is no such field; the fields are {fields}")
        return values


def _error_at(field: str, sentence: str) -> PydanticCustomError:
    """An error of one field, raised by a check of the whole object."""
    return PydanticCustomError("field", "{sentence}", {"field": field, "sentence": sentence})


def _bad_request(place: str, error: ErrorDetails) -> BadRequest:
    context = error.get("ctx", {})
    steps = (*error["loc"], *((context["field"],) if error["type"] == "field" else ()))
    field = place + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    if error["type"] == "model_type":
        return BadRequest(field, f"{field} must be an object")
    raised = str(context["error"]) if error["type"] == "value_error" else error["msg"]
    return BadRequest(field, f"{field}: {_SENTENCES.get(error['type'], raised)}")


class ImportedKey(StrictObject):
    name: RequiredText
    type: Annotated[str, _one_of(_KEY_TYPES, "is neither ssh nor x509")] = "ssh"
    public_key: RequiredText


class ImportedEc2Ids(StrictObject):
    """All EC2 ids of an instance. An id that is missing does not exist."""

    instance_id: Ec2Id
    ami_id: Ec2Id | None = None
    kernel_id: Ec2Id | None = None
    ramdisk_id: Ec2Id | None = None


class ImportedFixedAddress(StrictObject):
    ip_address: Address
    floating_ips: Addresses = []


class ImportedRoute(StrictObject):
    destination: Cidr
    nexthop: Address


def _as_object(value: object) -> object:
    """`10.0.0.5` is short for `{ip_address: 10.0.0.5}`."""
    return {"ip_address": value} if isinstance(value, str) else value


class ImportedSubnet(StrictObject):
    cidr: Cidr
    gateway_ip: Address | None = None
    enable_dhcp: bool = False
    ipv6_address_mode: Annotated[str, _one_of(_ADDRESS_MODES, f"is none of {', '.join(_ADDRESS_MODES)}")] | None = None
    dns_nameservers: Addresses = []
    host_routes: list[ImportedRoute] = []
    addresses: list[Annotated[ImportedFixedAddress, BeforeValidator(_as_object)]] = []

    @model_validator(mode="after")
    def _addresses_are_in_the_network(self) -> ImportedSubnet:
        network = ip_network(self.cidr)
        for place, fixed in enumerate(self.addresses):
            if ip_address(fixed.ip_address) not in network:
                field = f"addresses[{place}].ip_address"
                raise _error_at(field, f"{fixed.ip_address} is not in {network}")
        return self

    def nova_form(self) -> dict[str, Any]:
        """The subnet of a VIF in Nova's network_info cache."""
        # With DHCP, a DHCP port of Neutron has an address on the subnet, and Nova stores it in its cache.
        dhcp_server = {"dhcp_server": self.gateway_ip or "unknown"} if self.enable_dhcp else {}
        return {
            "cidr": self.cidr,
            "version": ip_network(self.cidr).version,
            "gateway": {"address": self.gateway_ip},
            "ips": [
                {"address": fixed.ip_address, "floating_ips": [{"address": text} for text in fixed.floating_ips]}
                for fixed in self.addresses
            ],
            "dns": [{"address": text} for text in self.dns_nameservers],
            "routes": [
                {"cidr": route.destination, "gateway": {"address": route.nexthop}} for route in self.host_routes
            ],
            "meta": {"enable_dhcp": self.enable_dhcp, "ipv6_address_mode": self.ipv6_address_mode} | dhcp_server,
        }


class ImportedPort(StrictObject):
    id: Uuid
    network_id: Uuid
    mac_address: MacAddress
    mtu: Annotated[int, _between(1, 65535)] | None = None
    device_name: str = ""
    vif_type: str = ""
    tags: Names | None = None
    vlan: Number = 0
    subnets: list[ImportedSubnet] = []

    def vif(self) -> dict[str, Any]:
        """The port's entry in Nova's network_info cache."""
        return {
            "id": self.id,
            "address": self.mac_address,
            "type": self.vif_type or "bridge",
            "devname": self.device_name or f"tap{self.id[:DEVICE_ID_CHARS]}",
            "network": {
                "id": self.network_id,
                "meta": {"mtu": self.mtu or None},
                "subnets": [subnet.nova_form() for subnet in self.subnets],
            },
        }

    def neutron_port(self) -> dict[str, Any]:
        addresses = [{"ip_address": fixed.ip_address} for subnet in self.subnets for fixed in subnet.addresses]
        return {"network_id": self.network_id, "fixed_ips": addresses}

    def interface_metadata(self) -> dict[str, Any]:
        """The port's tags, which are in `devices` of meta_data.json."""
        vlan = {"vlan": self.vlan} if self.vlan else {}
        return _versioned("NetworkInterfaceMetadata", {"mac": self.mac_address, "tags": self.tags} | vlan)


class ImportedBlockDevice(StrictObject):
    device_name: str | None = None
    source_type: str | None = None
    destination_type: str | None = None
    guest_format: str | None = None


class ImportedFile(StrictObject):
    path: RequiredText
    contents_base64: Base64 = b""


_SAME_NAME = {"project_id", "user_id", "hostname", "metadata", "launch_index", "availability_zone", "reservation_id",
              "root_device_name", "kernel_id", "ramdisk_id", "default_ephemeral_device",
              "default_swap_device", "launched_at"}  # fmt: skip
"""The fields of both forms."""


class ImportedInstance(StrictObject):
    """An instance in the form of docs/guide/import.md."""

    id: Uuid
    project_id: RequiredText
    hostname: Hostname
    name: str | None = None
    user_id: str = ""
    flavor: str | None = None
    image_id: str | None = None
    kernel_id: str | None = None
    ramdisk_id: str | None = None
    availability_zone: str | None = None
    launch_index: Number = 0
    reservation_id: str | None = None
    ec2_ids: ImportedEc2Ids | None = None
    key: ImportedKey | None = None
    user_data: str | None = None
    user_data_base64: Base64 | None = None
    metadata: Texts = {}
    security_groups: Names = []
    password: str | None = None
    launched_at: Time | None = None
    root_device_name: str | None = None
    default_ephemeral_device: str | None = None
    default_swap_device: str | None = None
    ports: list[ImportedPort] = []
    block_devices: list[ImportedBlockDevice] = []
    files: list[ImportedFile] = []

    @model_validator(mode="after")
    def _one_form_of_user_data(self) -> ImportedInstance:
        if self.user_data is not None and self.user_data_base64 is not None:
            raise _error_at("user_data", "use either user_data or user_data_base64, not both")
        return self

    def nova_form(self) -> NovaInstance:
        user_data = self.user_data_base64 if self.user_data is None else self.user_data.encode()
        key = {f"key_{name}": value for name, value in self.key if name != "public_key"} if self.key else {}
        tagged = [port.interface_metadata() for port in self.ports if port.tags is not None]
        return NovaInstance.model_validate(
            self.model_dump(include=_SAME_NAME)
            | key
            | {
                "uuid": self.id,
                "display_name": self.name,
                "flavor_name": self.flavor,
                "image_ref": self.image_id,
                "user_data_b64": None if user_data is None else b64encode(user_data).decode(),
                "public_key": self.key.public_key if self.key else None,
                "security_groups": [{"name": name} for name in self.security_groups],
                "ec2_ids": self.ec2_ids.model_dump() if self.ec2_ids else None,
                "network_info": [port.vif() for port in self.ports],
                "neutron_ports": [port.neutron_port() for port in self.ports],
                "device_metadata": _versioned("InstanceDeviceMetadata", {"devices": tagged}) if tagged else None,
                "block_device_mappings": [mapping.model_dump() for mapping in self.block_devices],
                "personality": [
                    {"path": file.path, "contents": b64encode(file.contents_base64).decode()} for file in self.files
                ],
                "system_metadata": {"password_0": self.password} if self.password else {},
            }
        )


def _versioned(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"nova_object.name": name, "nova_object.data": dict(data)}


class NovaFixedIp(ImportedObject):
    ip_address: RequiredText


class NovaPort(ImportedObject):
    network_id: RequiredText
    fixed_ips: list[NovaFixedIp] = []


class NovaEc2Ids(ImportedObject):
    instance_id: str | None = None
    ami_id: str | None = None
    kernel_id: str | None = None
    ramdisk_id: str | None = None


class NovaInstance(ImportedObject):
    """An instance in Nova's form (importer.py). Fields of other names are ignored."""

    uuid: Annotated[RequiredText, _readable(UUID)]
    project_id: RequiredText
    hostname: RequiredText
    user_id: str = ""
    display_name: str = ""
    image_ref: str = ""
    flavor_name: str = ""
    availability_zone: str | None = None
    key_name: str = ""
    key_type: str | None = None
    public_key: str | None = None
    user_data_b64: Base64 | None = None
    metadata: Texts = {}
    security_groups: list[dict[str, Any]] = []
    launch_index: Number = 0
    reservation_id: str | None = None
    launched_at: Time | None = None
    root_device_name: str | None = None
    default_ephemeral_device: str | None = None
    default_swap_device: str | None = None
    kernel_id: str | None = None
    ramdisk_id: str | None = None
    ec2_ids: NovaEc2Ids | None = None
    block_device_mappings: list[dict[str, Any]] = []
    personality: list[dict[str, Any]] = []
    network_info: Annotated[list[dict[str, Any]], _readable(nics_from_network_info)] = []
    neutron_ports: list[NovaPort] = []
    device_metadata: Annotated[dict[str, Any] | None, _readable(devices_from_metadata)] = None
    numa_topology: Annotated[dict[str, Any] | None, _readable(dedicated_cpus_from_topology)] = None
    system_metadata: Texts = {}

    @property
    def password(self) -> str:
        """The password of the guest, which Nova splits into password_0 … password_3. Empty without one."""
        pieces = {name: text for name, text in self.system_metadata.items() if name.startswith("password_")}
        return "".join(pieces[name] for name in sorted(pieces))
