"""The microversion of a request."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from fastapi import Depends, Request

from openimds.control_api.error_handlers import NotAcceptable
from openimds.control_api.middleware import add_response_header
from openimds.resources.errors import BadRequest


class Microversion(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST = Microversion(2, 1)
NEWEST = Microversion(2, 96)

HEADER = "openstack-api-version"
OLD_HEADER = "x-openstack-nova-api-version"

_VERSION = re.compile(r"([1-9]\d{0,3})\.(0|[1-9]\d{0,3})")


def parse_version(current: str | None, old: str | None) -> Microversion:
    """Parses the headers OpenStack-API-Version (`compute 2.90`) and X-OpenStack-Nova-API-Version (`2.90`). OLDEST without both.

    Raises BadRequest for a malformed version and NotAcceptable (406) for an unsupported one.
    """
    text = _of_compute(current) or (old.strip() if old else None)
    if text is None:
        return OLDEST
    if text == "latest":
        return NEWEST
    match = _VERSION.fullmatch(text)
    if match is None:
        raise BadRequest(
            HEADER, f"API Version String {text!r} is of invalid format. Must be of format MajorNum.MinorNum."
        )
    version = Microversion(int(match[1]), int(match[2]))
    if not OLDEST <= version <= NEWEST:
        raise NotAcceptable(f"Version {text} is not supported by the API. Minimum is {OLDEST} and maximum is {NEWEST}.")
    return version


def negotiate(request: Request) -> Microversion:
    """FastAPI dependency: the microversion of the request. Responses and errors show it in their headers."""
    version = parse_version(request.headers.get(HEADER), request.headers.get(OLD_HEADER))
    add_response_header(request, "OpenStack-API-Version", f"compute {version}")
    add_response_header(request, "X-OpenStack-Nova-API-Version", str(version))
    add_response_header(request, "Vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
    return version


Version = Annotated[Microversion, Depends(negotiate)]
"""Parameter of an endpoint: the microversion of the request."""


def _of_compute(header: str | None) -> str | None:
    for part in (header or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() == "compute" and version:
            return version.strip()
    return None
