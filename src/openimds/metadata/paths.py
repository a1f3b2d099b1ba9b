"""From a request's target to the path that is meant, with the outcomes that nova's front ends have.

nova is deployed behind uWSGI and Paste, which change a path before nova sees it; clients and attackers meet the sum.
In order:

1. query and fragment are cut off; `http://host` before the path is, too (RFC 9112 section 3.2.2);
2. percent-decoding, once; a sequence cut short at the end is dropped, a digit that is none counts as 0;
3. `//`, `.` and `..` are resolved, also those that were percent-encoded; a closing `/` is dropped;
4. what does not start with `ec2` or `openstack` belongs to the EC2 tree.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache

EC2 = "ec2"
OPENSTACK = "openstack"

_ONLY_UPWARD = re.compile(rb"(/\.\.)*")
_HEX_DIGITS = b"0123456789abcdefABCDEF"

_KEPT_TARGETS = 1024
_KEPT_TARGET_BYTES = 128
"""Guests ask for the same few targets; one that makes up its own long ones fills no memory."""


class MalformedTargetError(Exception):
    """The request line asks for something that is no path (400). `str(error)` is a sentence."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a request leads: `tree` is `ec2` or `openstack`, `parts` what is below it."""

    tree: str
    parts: tuple[str, ...]
    is_public: bool = False
    """`/` itself, which needs no identity."""


def parse_path(target: bytes) -> Path:
    """`/openstack//latest/../2018-08-27/meta%5Fdata.json?x` → openstack, (`2018-08-27`, `meta_data.json`).

    Bytes beyond ASCII are read as Latin-1: no document's name has any. Raises MalformedTargetError.
    """
    return _kept(target) if len(target) <= _KEPT_TARGET_BYTES else _parsed(target)


def _parsed(target: bytes) -> Path:
    raw = _path_of(target)
    text = _percent_decoded(raw).decode("latin-1")
    normal = posixpath.normpath("/" + text.lstrip("/"))
    parts = tuple(part for part in normal.split("/") if part)
    if not parts:
        # Behind uWSGI `/..` reaches nova as an empty path, which nova does not take for `/`.
        return Path(EC2, (), is_public=not _ONLY_UPWARD.fullmatch(raw))
    if parts[0] in (EC2, OPENSTACK):
        return Path(parts[0], parts[1:])
    return Path(EC2, parts)


_kept = lru_cache(maxsize=_KEPT_TARGETS)(_parsed)


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
