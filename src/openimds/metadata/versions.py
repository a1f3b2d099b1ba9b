"""Versions of the two trees. All are dates, except EC2's `1.0`."""

from __future__ import annotations

from collections.abc import Sequence

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


def resolve(name: str, versions: Sequence[str]) -> str | None:
    """The version that a path segment names. `latest` is the newest version. None if the version does not exist.

    Versions dated in the future are readable, but not listed.
    """
    if name == LATEST:
        return versions[-1]
    return name if name in versions else None


def is_since(version: str, since: str) -> bool:
    """Returns True if `version` is `since` or newer. Both are resolved versions of one tree, and sort by age."""
    return version >= since


def ec2_listing() -> tuple[str, ...]:
    """The entries of `/` and `/ec2`."""
    return (*EC2_VERSIONS, LATEST)


def openstack_listing(today: str) -> tuple[str, ...]:
    """The entries of `/openstack` on the day `today` (`2026-11-21`). Versions dated later are left out, as in nova."""
    return (*(version for version in OPENSTACK_VERSIONS if version <= today), LATEST)
