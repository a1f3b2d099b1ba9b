"""Validators of single values. A validator returns the canonical form of a JSON value, or raises BadRequest with Neutron's text:

`Invalid input for cidr. Reason: '300.0.0.0/24' is not a valid IP subnet.`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

from openimds.resources.errors import BadRequest

Validator = Callable[[str, Any], Any]
"""(field, value) → value. Raises BadRequest."""

MAX_TEXT = 255
MAX_OBJECT_CHARS = 4095
"""Limit of a free-form object, which is that of Neutron's binding:profile."""
MAX_LIST = 1000
"""Maximum number of entries in one attribute."""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
DHCP_OPTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:-]{0,63}")
BLANK_DHCP_OPTIONS = frozenset({"router", "classless-static-route"})
"""Options whose empty value suppresses the option, as in Neutron."""
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def invalid(field: str, reason: str) -> BadRequest:
    """The error, with Neutron's text."""
    return BadRequest(field, f"Invalid input for {field}. Reason: {reason}.", kind="HTTPBadRequest")


def text(field: str, value: Any) -> str:
    """At most 255 characters, without NUL."""
    if not isinstance(value, str):
        raise invalid(field, f"'{value}' is not a valid string")
    if len(value) > MAX_TEXT:
        raise invalid(field, f"it exceeds maximum length of {MAX_TEXT}")
    if "\x00" in value:
        raise invalid(field, "it contains a NUL character")
    return value


def text_or_null(field: str, value: Any) -> str | None:
    """Text or null."""
    return None if value is None else text(field, value)


def boolean(field: str, value: Any) -> bool:
    """A JSON boolean, or its form as a string or number that clients send."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int) and str(value).lower() in {"true", "false", "1", "0"}:
        return str(value).lower() in {"true", "1"}
    raise invalid(field, f"'{value}' cannot be converted to boolean")


def uuid(field: str, value: Any) -> str:
    """A UUID, in canonical lower case."""
    try:
        return str(UUID(value)) if isinstance(value, str) and len(value) == 36 else _not_uuid(field, value)
    except ValueError:
        return _not_uuid(field, value)


def uuid_or_null(field: str, value: Any) -> str | None:
    """A UUID or null."""
    return None if value is None else uuid(field, value)


def project_id(field: str, value: Any) -> str:
    """Any text. Keystone's ids are UUIDs with or without dashes, but other ids (`default`) exist."""
    return text(field, value)


def address(field: str, value: Any) -> str:
    """An IPv4 or IPv6 address, without a zone."""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return str(ip_address(value))
    except ValueError:
        raise invalid(field, f"'{value}' is not a valid IP address") from None


def address_or_null(field: str, value: Any) -> str | None:
    """The address. None if the value is null or an empty string: clients send both for no address."""
    return None if value in (None, "") else address(field, value)


def cidr(field: str, value: Any) -> str:
    """A subnet with a prefix length and without host bits."""
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value or "." in value.split("/", 1)[1]:
            raise ValueError
        net = ip_network(value, strict=False)
    except ValueError:
        raise invalid(field, f"'{value}' is not a valid IP subnet") from None
    if str(net.network_address) != str(ip_address(value.split("/", 1)[0])):
        raise invalid(field, f"'{value}' isn't a recognized IP subnet cidr, '{net}' is recommended")
    return str(net)


def address_or_cidr(field: str, value: Any) -> str:
    """An address or a subnet, for allowed address pairs."""
    return cidr(field, value) if isinstance(value, str) and "/" in value else address(field, value)


def mac(field: str, value: Any) -> str:
    """A MAC address in lower case with colons. Group addresses and the zero address are invalid."""
    candidate = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if not MAC.fullmatch(candidate):
        raise invalid(field, f"'{value}' is not a valid MAC address")
    if int(candidate[:2], 16) & 1 or candidate == "00:00:00:00:00:00":
        raise invalid(field, f"'{value}' is not a MAC address that a device can have")
    return candidate


def mac_or_null(field: str, value: Any) -> str | None:
    """A MAC address or null."""
    return None if value is None else mac(field, value)


def dns_name(field: str, value: Any) -> str:
    """A host name, or the empty string."""
    if value in (None, ""):
        return ""
    name = text(field, value)
    if not all(HOST_LABEL.fullmatch(label) for label in name.rstrip(".").split(".")):
        raise invalid(field, f"'{name}' is not a valid host name")
    return name.lower()


@dataclass(frozen=True, slots=True)
class IntRange:
    """An integer in a range, both ends included."""

    least: int
    most: int

    def __call__(self, field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise invalid(field, f"'{value}' is not an integer")
        try:
            number = int(value)
        except ValueError:
            raise invalid(field, f"'{value}' is not an integer") from None
        if not self.least <= number <= self.most:
            raise invalid(field, f"'{value}' is not between {self.least} and {self.most}")
        return number


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these values."""

    values: Sequence[Any]

    def __call__(self, field: str, value: Any) -> Any:
        if value not in self.values or isinstance(value, bool) != isinstance(self.values[0], bool):
            raise invalid(field, f"'{value}' is not in {list(self.values)}")
        return value


@dataclass(frozen=True, slots=True)
class Nullable:
    """Null, or a value that `check` accepts."""

    check: Validator

    def __call__(self, field: str, value: Any) -> Any:
        return None if value is None else self.check(field, value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of distinct entries that `check` accepts. Null becomes the empty list."""

    check: Validator

    def __call__(self, field: str, value: Any) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise invalid(field, f"it is not a list of at most {MAX_LIST} entries")
        checked = [self.check(field, entry) for entry in value]
        found: set[str] = set()
        for entry in checked:
            canonical = json.dumps(entry, sort_keys=True)
            if canonical in found:
                raise invalid(field, f"Duplicate items in the list: '{entry}'")
            found.add(canonical)
        return checked


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with only these keys."""

    keys: Mapping[str, Validator]
    required: frozenset[str] = frozenset()

    def __call__(self, field: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid(field, f"'{value}' is not a dictionary")
        for name in value:
            if name not in self.keys:
                raise invalid(field, f"'{name}' is not a key that it has; there are {', '.join(self.keys)}")
        for name in self.required:
            if value.get(name) is None:
                raise invalid(field, f"'{name}' is missing in it")
        return {name: self.keys[name](f"{field}.{name}", entry) for name, entry in value.items()}


def fixed_ips(field: str, value: Any) -> list[dict[str, Any]]:
    """`[{"subnet_id": …, "ip_address": …}]`. Each entry has at least one of both."""
    entries: list[dict[str, Any]] = []
    if value is not None and (not isinstance(value, list) or len(value) > MAX_LIST):
        raise invalid(field, f"it is not a list of at most {MAX_LIST} entries")
    keys = Struct({"subnet_id": uuid, "ip_address": address})
    for entry in value or ():
        given = {k: v for k, v in entry.items() if v is not None} if isinstance(entry, dict) else entry
        checked = keys(field, given)
        if not checked:
            raise invalid(field, "an entry has neither subnet_id nor ip_address")
        entries.append(checked)
    return entries


def dhcp_option(field: str, value: Any) -> dict[str, Any]:
    """`{"opt_name": "bootfile-name", "opt_value": "pxelinux.0", "ip_version": 4}`

    Names and values are written to dnsmasq's files. Characters that would start a new line are invalid (OSSA-2021-005).
    """
    keys: dict[str, Validator] = {"opt_name": text, "opt_value": text_or_null, "ip_version": IntRange(4, 6)}
    option = {"ip_version": 4, **Struct(keys, frozenset({"opt_name"}))(field, value)}
    option.setdefault("opt_value", None)
    if not DHCP_OPTION_NAME.fullmatch(option["opt_name"]):
        raise invalid(field, f"'{option['opt_name']}' is not a DHCP option's name")
    if option["opt_value"] == "" and option["opt_name"] not in BLANK_DHCP_OPTIONS:
        raise invalid(field, f"the value of {option['opt_name']} is empty")
    if option["opt_value"] is not None and CONTROL_CHARACTERS.search(option["opt_value"]):
        raise invalid(field, f"the value of {option['opt_name']} contains control characters")
    if option["ip_version"] not in (4, 6):
        raise invalid(field, f"ip_version {option['ip_version']} is neither 4 nor 6")
    return option


def tag(field: str, value: Any) -> str:
    """A tag of 1 to 255 characters without a comma, which separates tags in queries."""
    checked = text(field, value)
    if not checked or "," in checked:
        raise invalid(field, f"'{checked}' is not a tag: 1 to {MAX_TEXT} characters without a comma")
    return checked


def gateway_info(field: str, value: Any) -> dict[str, Any] | None:
    """`{"network_id": …, "enable_snat": true, "external_fixed_ips": […]}`.

    Null, an empty object and an object without a network remove the gateway, as in Neutron.
    """
    if value is None:
        return None
    keys: dict[str, Validator] = {
        "network_id": uuid_or_null,
        "enable_snat": boolean,
        "external_fixed_ips": fixed_ips,
        "qos_policy_id": OneOf((None,)),
    }
    checked = Struct(keys)(field, value)
    checked.pop("qos_policy_id", None)
    if checked.get("network_id") is not None:
        return checked
    if checked.get("external_fixed_ips") or "enable_snat" in checked:
        raise invalid(field, "'network_id' is missing in it")
    return None


def json_object(field: str, value: Any) -> dict[str, Any]:
    """A JSON object. Null becomes the empty object."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(field, f"'{value}' is not a dictionary")
    if len(json.dumps(value)) > MAX_OBJECT_CHARS:
        raise invalid(field, f"it has more than {MAX_OBJECT_CHARS} characters")
    return value


def _not_uuid(field: str, value: Any) -> str:
    raise invalid(field, f"'{value}' is not a valid UUID")
