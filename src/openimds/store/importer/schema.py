"""The schema of import documents (docs/guide/import.md), and their conversion to Nova's form.

Every error names the field as the document has it: `instances[3].ports[0].mac_address`.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar
from uuid import UUID

from openimds.resources.errors import BadRequest
from openimds.resources.network import DEVICE_ID_CHARS

T = TypeVar("T")

MAX_NUMBER = 2**31 - 1
"""The largest value of an integer column in both databases."""


@dataclass(frozen=True, slots=True)
class FieldReader:
    """An object of the document and its place. Every method raises BadRequest for a value of another type."""

    values: Mapping[str, Any]
    place: str

    @classmethod
    def of(cls, value: object, place: str) -> FieldReader:
        if not isinstance(value, Mapping):
            raise BadRequest(place, f"{place} must be an object")
        return cls(value, place)

    def wrong(self, name: str, sentence: str) -> BadRequest:
        field = f"{self.place}.{name}"
        return BadRequest(field, f"{field}: {sentence}")

    def only(self, known: frozenset[str]) -> None:
        """Raises BadRequest for an unknown field, which most often is a typing error."""
        unknown = sorted(str(name) for name in self.values if name not in known)
        if unknown:
            raise self.wrong(unknown[0], f"there is no such field; the fields are {', '.join(sorted(known))}")

    def text(self, name: str) -> str:
        value = self.optional_text(name)
        if not value:
            raise self.wrong(name, "it must be a text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "it must be a text or null")
        return value

    def number(self, name: str) -> int:
        """0 if missing."""
        value = self.values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.wrong(name, "it must be a whole number")
        if not 0 <= (value or 0) <= MAX_NUMBER:
            raise self.wrong(name, f"{value} is not between 0 and {MAX_NUMBER}")
        return value or 0

    def flag(self, name: str) -> bool:
        """False if missing."""
        value = self.values.get(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, "it must be true or false")
        return bool(value)

    def parsed(self, name: str, reader: Callable[[str], str], what: str) -> str:
        """The text, converted by `reader`. `what` describes valid texts for errors: `a network like 10.0.0.0/24`."""
        text = self.text(name)
        try:
            return reader(text)
        except ValueError:
            raise self.wrong(name, f"{text[:80]!r} is not {what}") from None

    def base64(self, name: str) -> bytes:
        """The decoded bytes, empty if missing. White space in the text is ignored."""
        try:
            return b64decode("".join((self.optional_text(name) or "").split()), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(name, "it is not base64") from None

    def strings(self, name: str, reader: Callable[[str], str] = str) -> list[str]:
        """A list of texts, converted by `reader`. A ValueError of `reader` becomes the error."""
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "it must be a list of texts")
        found = []
        for place, text in enumerate(value or ()):
            if not isinstance(text, str):
                raise self.wrong(f"{name}[{place}]", "it must be a text")
            try:
                found.append(reader(text))
            except ValueError as error:
                raise self.wrong(f"{name}[{place}]", str(error)) from None
        return found

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts, empty if missing."""
        value = {} if self.values.get(name) is None else self.values[name]
        if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
            raise self.wrong(name, "it must be an object of texts")
        return dict(value)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects, empty if missing."""
        return [dict(part.values) for part in self.parts(name)]

    def parts(self, name: str, single: str | None = None) -> Iterator[FieldReader]:
        """The objects of a list with their places. A text is an object with the one field `single`."""
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "it must be a list of objects")
        for place, part in enumerate(value or ()):
            whole = {single: part} if single is not None and isinstance(part, str) else part
            yield FieldReader.of(whole, f"{self.place}.{name}[{place}]")

    def part(self, name: str) -> FieldReader | None:
        """An object, or None if missing."""
        value = self.values.get(name)
        return None if value is None else FieldReader.of(value, f"{self.place}.{name}")

    def read(self, name: str, reader: Callable[[Any], T]) -> T:
        """The value, converted by `reader`. Raises BadRequest if `reader` fails."""
        try:
            return reader(self.values.get(name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.wrong(name, f"it cannot be read ({type(error).__name__}: {error})") from error


_MAC_ADDRESS = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_EC2_ID = re.compile(r"[a-z]+-[0-9a-f]{8}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
_KEY_TYPES = ("ssh", "x509")
_ADDRESS_MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")

_SAME_NAME = ("project_id", "user_id", "hostname", "metadata", "launch_index", "availability_zone", "reservation_id",
              "root_device_name", "kernel_id", "ramdisk_id")  # fmt: skip
_INSTANCE = frozenset({*_SAME_NAME, "id", "name", "flavor", "image_id", "key", "user_data", "user_data_base64",
                       "security_groups", "ec2_ids", "ports", "block_devices", "files", "password",
                       "default_ephemeral_device", "default_swap_device"})  # fmt: skip
_PORT = frozenset({"id", "network_id", "mac_address", "mtu", "device_name", "vif_type", "tags", "vlan", "subnets"})
_SUBNET = frozenset({"cidr", "gateway_ip", "addresses", "dns_nameservers", "host_routes", "enable_dhcp",
                     "ipv6_address_mode"})  # fmt: skip


def to_nova_form(fields: FieldReader) -> FieldReader:
    """Converts one instance to Nova's form. Raises BadRequest, which names the field."""
    fields.only(_INSTANCE)
    hostname = fields.text("hostname")
    if not _HOSTNAME.fullmatch(hostname):
        raise fields.wrong("hostname", f"{hostname[:80]!r} is not a host name")
    ports = list(fields.parts("ports"))
    values: dict[str, Any] = {name: fields.values.get(name) for name in _SAME_NAME}
    values |= {
        "uuid": _uuid(fields, "id"),
        "display_name": fields.optional_text("name"),
        "flavor_name": fields.optional_text("flavor"),
        "image_ref": fields.optional_text("image_id"),
        "user_data_b64": _user_data(fields),
        "security_groups": [{"name": name} for name in fields.strings("security_groups")],
        "ec2_ids": _ec2_ids(fields),
        "network_info": [_vif(port) for port in ports],
        "neutron_ports": [_neutron_port(port) for port in ports],
        "device_metadata": _device_metadata(ports),
        "block_device_mappings": [_block_device(mapping) for mapping in fields.parts("block_devices")],
        "personality": [{"path": file.text("path"), "contents": _contents(file)} for file in fields.parts("files")],
        "default_ephemeral_device": fields.optional_text("default_ephemeral_device"),
        "default_swap_device": fields.optional_text("default_swap_device"),
        "system_metadata": {"password_0": password} if (password := fields.optional_text("password")) else {},
    }
    return FieldReader(values | _key(fields), fields.place)


def _uuid(fields: FieldReader, name: str) -> str:
    text = fields.text(name)
    try:
        return str(UUID(text))
    except ValueError:
        raise fields.wrong(name, f"{text!r} is not a UUID") from None


def _key(fields: FieldReader) -> dict[str, Any]:
    key = fields.part("key")
    if key is None:
        return {}
    key.only(frozenset({"name", "type", "public_key"}))
    kind = key.optional_text("type") or "ssh"
    if kind not in _KEY_TYPES:
        raise key.wrong("type", f"{kind!r} is neither ssh nor x509")
    return {"key_name": key.text("name"), "key_type": kind, "public_key": key.text("public_key")}


def _user_data(fields: FieldReader) -> str | None:
    """The user data as base64. `user_data` is text, and `user_data_base64` has any bytes."""
    text, encoded = fields.optional_text("user_data"), fields.optional_text("user_data_base64")
    if text is None:
        return None if encoded is None else b64encode(fields.base64("user_data_base64")).decode()
    if encoded is not None:
        raise fields.wrong("user_data", "use either user_data or user_data_base64, not both")
    return b64encode(text.encode()).decode()


def _contents(file: FieldReader) -> str:
    file.only(frozenset({"path", "contents_base64"}))
    return b64encode(file.base64("contents_base64")).decode()


def _ec2_ids(fields: FieldReader) -> dict[str, str | None] | None:
    """None if the document has none: the first read of the instance then assigns its EC2 ids."""
    given = fields.part("ec2_ids")
    if given is None:
        return None
    names = ("instance_id", "ami_id", "kernel_id", "ramdisk_id")
    given.only(frozenset(names))
    ids = {name: given.optional_text(name) for name in names}
    for name, text in ids.items():
        if text is not None and not _EC2_ID.fullmatch(text):
            raise given.wrong(name, f"{text!r} is not like i-0000002a")
    given.text("instance_id")
    return ids


def _vif(port: FieldReader) -> dict[str, Any]:
    """The port's entry in Nova's network_info cache."""
    port.only(_PORT)
    port_id = _uuid(port, "id")
    return {
        "id": port_id,
        "address": _mac_address(port),
        "type": port.optional_text("vif_type") or "bridge",
        "devname": port.optional_text("device_name") or f"tap{port_id[:DEVICE_ID_CHARS]}",
        "network": {
            "id": _uuid(port, "network_id"),
            "meta": {"mtu": _mtu(port)},
            "subnets": [_subnet(subnet) for subnet in port.parts("subnets")],
        },
    }


def _mac_address(port: FieldReader) -> str:
    text = port.text("mac_address").lower()
    if not _MAC_ADDRESS.fullmatch(text):
        raise port.wrong("mac_address", f"{text!r} is not like fa:16:3e:00:00:01")
    return text


def _mtu(port: FieldReader) -> int | None:
    mtu = port.number("mtu")
    if not 0 <= mtu <= 65535:
        raise port.wrong("mtu", f"{mtu} is not between 1 and 65535")
    return mtu or None


def _neutron_port(port: FieldReader) -> dict[str, Any]:
    addresses = [text for subnet in port.parts("subnets") for text, _floating in _addresses(subnet)]
    return {
        "id": _uuid(port, "id"),
        "network_id": _uuid(port, "network_id"),
        "mac_address": _mac_address(port),
        "fixed_ips": [{"ip_address": address} for address in addresses],
    }


def _subnet(subnet: FieldReader) -> dict[str, Any]:
    subnet.only(_SUBNET)
    cidr = subnet.parsed("cidr", lambda text: str(ip_network(text)), "a network like 10.0.0.0/24")
    gateway = subnet.optional_text("gateway_ip")
    if gateway is not None:
        gateway = subnet.parsed("gateway_ip", _address, "an address")
    mode = subnet.optional_text("ipv6_address_mode")
    if mode is not None and mode not in _ADDRESS_MODES:
        raise subnet.wrong("ipv6_address_mode", f"{mode!r} is none of {', '.join(_ADDRESS_MODES)}")
    enable_dhcp = subnet.flag("enable_dhcp")
    return {
        "cidr": cidr,
        "version": ip_network(cidr).version,
        "gateway": {"address": gateway},
        "ips": [
            {"address": address, "floating_ips": [{"address": text} for text in floating]}
            for address, floating in _addresses(subnet)
        ],
        "dns": [{"address": text} for text in subnet.strings("dns_nameservers", _checked(_address, "an address"))],
        "routes": [_route(route) for route in subnet.parts("host_routes")],
        # With DHCP, a DHCP port of Neutron has an address on the subnet, and Nova stores it in its cache.
        "meta": {"enable_dhcp": enable_dhcp, "ipv6_address_mode": mode}
        | ({"dhcp_server": gateway or "unknown"} if enable_dhcp else {}),
    }


def _addresses(subnet: FieldReader) -> list[tuple[str, list[str]]]:
    """(fixed IP, its floating IPs) of `10.0.0.5` or `{ip_address: 10.0.0.5, floating_ips: […]}`."""
    network = ip_network(subnet.parsed("cidr", lambda text: str(ip_network(text)), "a network like 10.0.0.0/24"))
    found = []
    for fixed in subnet.parts("addresses", single="ip_address"):
        fixed.only(frozenset({"ip_address", "floating_ips"}))
        address = fixed.parsed("ip_address", _address, "an address")
        if ip_address(address) not in network:
            raise fixed.wrong("ip_address", f"{address} is not in {network}")
        found.append((address, fixed.strings("floating_ips", _checked(_address, "an address"))))
    return found


def _route(route: FieldReader) -> dict[str, Any]:
    route.only(frozenset({"destination", "nexthop"}))
    destination = route.parsed("destination", lambda text: str(ip_network(text)), "a network like 10.9.0.0/16")
    return {"cidr": destination, "gateway": {"address": route.parsed("nexthop", _address, "an address")}}


def _address(text: str) -> str:
    return str(ip_address(text))


def _checked(reader: Callable[[str], str], what: str) -> Callable[[str], str]:
    """The reader with a ValueError that describes valid texts."""

    def read(text: str) -> str:
        try:
            return reader(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {what}") from None

    return read


def _device_metadata(ports: list[FieldReader]) -> dict[str, Any] | None:
    """The metadata of ports with tags, which are in `devices` of meta_data.json."""
    tagged = [port for port in ports if port.values.get("tags") is not None]
    devices = [_object("NetworkInterfaceMetadata", _tagged(port)) for port in tagged]
    return _object("InstanceDeviceMetadata", {"devices": devices}) if devices else None


def _tagged(port: FieldReader) -> dict[str, Any]:
    vlan = port.number("vlan")
    return {"mac": _mac_address(port), "tags": port.strings("tags")} | ({"vlan": vlan} if vlan else {})


def _object(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"nova_object.name": name, "nova_object.data": dict(data)}


def _block_device(mapping: FieldReader) -> dict[str, Any]:
    names = ("device_name", "source_type", "destination_type", "guest_format")
    mapping.only(frozenset(names))
    return {name: mapping.optional_text(name) for name in names}
