"""Recorded responses of a real nova-api-metadata, and the expected response of openimds for each.

data/nova_answers.json has the requests byte for byte and the responses, data/instances.json has the instances. Deliberate
differences from nova are rules in this module, not single cases. docs/compatibility.md has the reasons.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

READ_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Case:
    """A recorded request with its response."""

    fields: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]

    def __str__(self) -> str:
        note = f" ({self.fields['note']})" if "note" in self.fields else ""
        return f"#{self.n} {self.config}/{self.instance} {self.method} {self.target[:80]!r}{note}"

    @property
    def request_bytes(self) -> bytes:
        lines: list[bytes] = [f"{self.method} {self.target} {self.version}".encode()]
        lines += [b"Host: 169.254.169.254"] if self.host_header else []
        lines += [f"{name}: {value}".encode() for name, value in self.headers]
        lines += [b"Connection: close"]
        return b"\r\n".join([*lines, b"", self.sent_body])

    @property
    def sent_body(self) -> bytes:
        if "request_body_b64" in self.fields:
            return base64.b64decode(self.fields["request_body_b64"])
        return str(self.fields.get("request_body", "")).encode()

    @property
    def response_body(self) -> bytes:
        if "body_b64" in self.fields:
            return base64.b64decode(self.body_b64)
        return str(self.body).encode()

    def values(self, header: str) -> list[str]:
        return [value for name, value in self.headers if name.lower() == header.lower()]

    @property
    def is_for_password(self) -> bool:
        return str(self.target).rstrip("/").endswith("/password")


@dataclass(frozen=True)
class Expected:
    """An expected response. `body` and `content_type` are compared unless they are None."""

    status: int
    content_type: str | None = None
    body: bytes | None = None
    random_fields: tuple[str, ...] = ()
    difference: str | None = None
    """The deliberate difference from nova. None if there is none."""


def load_cases() -> list[Case]:
    document = json.loads((DATA / "nova_answers.json").read_text())
    return [Case(fields) for fields in document["cases"]]


def load_instances() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DATA / "instances.json").read_text())
    return document


class Expectations:
    """The expected responses. `of` is called for the cases in order, because passwords depend on earlier cases."""

    def __init__(self) -> None:
        self._passwords: dict[tuple[str, str], bytes] = {}

    def of(self, case: Case) -> Expected:
        for rule in (self._difference, self._password):
            expected = rule(case)
            if expected is not None:
                return expected
        if case.status != 200:
            return Expected(case.status)
        return Expected(200, case.content_type, case.response_body, tuple(case.fields.get("random_fields", ())))

    def _difference(self, case: Case) -> Expected | None:
        return next((found for rule in DIFFERENCES if (found := rule(case)) is not None), None)

    def _password(self, case: Case) -> Expected | None:
        """A password can be posted once. nova refuses the second post only after its cache entry has expired."""
        if not case.is_for_password or case.status not in (200, 409) or case.method not in ("GET", "POST"):
            return None
        key = (case.config, case.instance)
        stored = self._passwords.get(key, b"")
        if case.method == "GET":
            return Expected(200, case.content_type, stored)
        if stored:
            return Expected(409)
        self._passwords[key] = case.sent_body[: int(case.values("Content-Length")[0])]
        return Expected(200, case.content_type, b"")


def _below_a_leaf_or_malformed(case: Case) -> Expected | None:
    if case.status is not None:
        return None
    if case.is_for_password:
        return _password_that_crashed_nova(case)
    is_path = case.target.startswith(("/", "http://", "https://"))
    return Expected(404 if is_path else 400, difference="nova's uncaught exception")


def _password_that_crashed_nova(case: Case) -> Expected:
    if case.values("Transfer-Encoding"):
        return Expected(200, difference="a chunked password is read properly")
    if not case.values("Content-Length"):
        return Expected(411, difference="a password without Content-Length")
    return Expected(400, difference="a password that is not UTF-8")


def _options(case: Case) -> Expected | None:
    return Expected(405, difference="OPTIONS") if case.method == "OPTIONS" else None


def _other_methods(case: Case) -> Expected | None:
    """nova handles other methods as GET. The password document has 400 for them, as in nova."""
    if case.method in READ_METHODS or case.status != 200 or case.is_for_password:
        return None
    return Expected(405, difference="a method other than GET or HEAD")


def _session_token(case: Case) -> Expected | None:
    """nova has no session tokens."""
    if case.target != "/latest/api/token" or case.status != 404:
        return None
    if case.method == "PUT":
        return Expected(200, "text/plain; charset=UTF-8", difference="session tokens")
    return Expected(405, difference="session tokens")


def _repeated_identity(case: Case) -> Expected | None:
    names = ("X-Instance-ID", "X-Instance-ID-Signature", "X-Tenant-ID")
    if any(len(case.values(name)) > 1 for name in names):
        return Expected(400, difference="an identity header twice")
    return None


def _underscores(case: Case) -> Expected | None:
    if any(name.lower().startswith("x_instance_id") for name, _value in case.headers):
        return Expected(400, difference="an identity header with underscores")
    return None


def _request_without_an_address(case: Case) -> Expected | None:
    """nova returns the address of the client that filled its cache. openimds returns no address of another client."""
    if not case.target.endswith("/local-ipv4") or case.values("X-Forwarded-For") or case.config == "direct":
        return None
    if case.body in _addresses_of(case.instance):
        return None
    return Expected(200, case.content_type, b"None", difference="no address of another client")


def _addresses_of(label: str) -> set[str]:
    instance = next(entry for entry in load_instances()["instances"] if entry["label"] == label)
    return {fixed["ip_address"] for port in instance["neutron_ports"] for fixed in port["fixed_ips"]}


DIFFERENCES = (
    _below_a_leaf_or_malformed,
    _options,
    _repeated_identity,
    _underscores,
    _session_token,
    _other_methods,
    _request_without_an_address,
)
