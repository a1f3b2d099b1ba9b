"""Microversions: which one a request wants, which ones there are, and the version documents that say so."""

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
    """From the two headers, `compute 2.90` and `2.90`; without either the oldest.

    Raises BadRequest for what is no version, NotAcceptable (406) for one that is not served.
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
    """FastAPI dependency: the request's microversion; the answer's headers tell it, errors' too."""
    version = parse_version(request.headers.get(HEADER), request.headers.get(OLD_HEADER))
    add_response_header(request, "OpenStack-API-Version", f"compute {version}")
    add_response_header(request, "X-OpenStack-Nova-API-Version", str(version))
    add_response_header(request, "Vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
    return version


Version = Annotated[Microversion, Depends(negotiate)]
"""An endpoint's parameter: the microversion that the request wants."""


def _of_compute(header: str | None) -> str | None:
    for part in (header or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() == "compute" and version:
            return version.strip()
    return None
