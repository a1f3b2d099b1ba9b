"""Normalises a request target as nova's front ends do.

Nova is deployed behind uWSGI and Paste, which change a path before nova sees it. The steps, in order:

1. Query, fragment and `http://host` (RFC 9112 section 3.2.2) are removed.
2. The path is percent-decoded once. An incomplete sequence at the end is dropped. An invalid hexadecimal digit counts
   as 0.
3. `//`, `.` and `..` are resolved, including those that were percent-encoded. A closing `/` is dropped.
4. A path that does not start with `ec2` or `openstack` belongs to the EC2 tree.

Versions are dates, except EC2's `1.0`. As texts, the versions of a tree sort by age.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LATEST = "latest"

EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)

FOLSOM = "2012-08-10"
GRIZZLY = "2013-04-04"
HAVANA = "2013-10-17"
LIBERTY = "2015-10-15"
NEWTON_ONE = "2016-06-30"
NEWTON_TWO = "2016-10-06"
OCATA = "2017-02-22"
ROCKY = "2018-08-27"
VICTORIA = "2020-10-14"
EPOXY = "2025-04-04"

OPENSTACK_VERSIONS = (
    FOLSOM,
    GRIZZLY,
    HAVANA,
    LIBERTY,
    NEWTON_ONE,
    NEWTON_TWO,
    OCATA,
    ROCKY,
    VICTORIA,
    EPOXY,
)

EC2 = "ec2"
OPENSTACK = "openstack"

_ONLY_UPWARD = re.compile(rb"(/\.\.)*")
_HEX_DIGITS = b"0123456789abcdefABCDEF"

_CACHED_TARGETS = 1024
_CACHED_TARGET_BYTES = 128
"""Longer targets are not cached, so a client that invents targets cannot fill the memory."""


class MalformedTargetError(Exception):
    """The request target is not a path (400). `str(error)` is a sentence for the client."""


@dataclass(frozen=True, slots=True)
class Path:
    """A normalised path: `tree` is `ec2` or `openstack`, `parts` are the segments below it."""

    tree: str
    parts: tuple[str, ...]
    is_public: bool = False
    """True for `/`, which clients can read without identification."""


def parse_path(target: bytes) -> Path:
    """`/openstack//latest/../2018-08-27/meta%5Fdata.json?x` → openstack, (`2018-08-27`, `meta_data.json`).

    Bytes beyond ASCII are decoded as Latin-1; no document has them in its name. Raises MalformedTargetError.
    """
    return _parse_cached(target) if len(target) <= _CACHED_TARGET_BYTES else _parse(target)


def _parse(target: bytes) -> Path:
    raw = _path_of(target)
    text = _percent_decoded(raw).decode("latin-1")
    normal = posixpath.normpath("/" + text.lstrip("/"))
    parts = tuple(part for part in normal.split("/") if part)
    if not parts:
        # uWSGI passes `/..` to nova as an empty path, which nova does not treat as `/`.
        return Path(EC2, (), is_public=not _ONLY_UPWARD.fullmatch(raw))
    if parts[0] in (EC2, OPENSTACK):
        return Path(parts[0], parts[1:])
    return Path(EC2, parts)


_parse_cached = lru_cache(maxsize=_CACHED_TARGETS)(_parse)


def _path_of(target: bytes) -> bytes:
    path = re.split(rb"[?#]", target, maxsplit=1)[0]
    for scheme in (b"http://", b"https://"):
        if path.startswith(scheme):
            _host, slash, rest = path.removeprefix(scheme).partition(b"/")
            return slash + rest
    if path and not path.startswith(b"/"):
        raise MalformedTargetError("The request's target must be a path that starts with /.")
    return path


def _percent_decoded(raw: bytes) -> bytes:
    if b"%" not in raw:
        return raw
    decoded = bytearray()
    position = 0
    while position < len(raw):
        if raw[position] != ord("%"):
            decoded.append(raw[position])
            position += 1
            continue
        digits = raw[position + 1 : position + 3]
        if len(digits) == 2:
            decoded.append(16 * _digit(digits[0]) + _digit(digits[1]))
        position += 3
    return bytes(decoded)


def _digit(code: int) -> int:
    return int(chr(code), 16) if code in _HEX_DIGITS else 0


def resolve(name: str, versions: Sequence[str]) -> str | None:
    """The version that a path segment names. `latest` is the newest version. None if the version does not exist.

    Versions dated in the future are readable, but not listed.
    """
    if name == LATEST:
        return versions[-1]
    return name if name in versions else None


def ec2_listing() -> tuple[str, ...]:
    """The entries of `/` and `/ec2`."""
    return (*EC2_VERSIONS, LATEST)


def openstack_listing(today: str) -> tuple[str, ...]:
    """The entries of `/openstack` on the day `today` (`2026-11-21`). Versions dated later are left out, as in nova."""
    return (*(version for version in OPENSTACK_VERSIONS if version <= today), LATEST)
