from __future__ import annotations

import pytest

from openimds.metadata.paths import (
    EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    ec2_listing,
    openstack_listing,
    resolve,
)


@pytest.mark.parametrize(
    ("today", "newest"), [("2026-11-21", "2025-04-04"), ("2025-04-04", "2025-04-04"), ("2025-04-03", "2020-10-14")]
)
def test_future_versions_are_not_listed(today: str, newest: str) -> None:
    assert openstack_listing(today)[-2:] == (newest, "latest")


def test_ec2_lists_all_versions() -> None:
    assert ec2_listing() == (*EC2_VERSIONS, "latest")


@pytest.mark.parametrize(
    ("name", "version"),
    [("latest", "2025-04-04"), ("2012-08-10", "2012-08-10"), ("2012-08-1", None), ("LATEST", None), ("", None)],
)
def test_latest_and_known_versions_are_resolved(name: str, version: str | None) -> None:
    assert resolve(name, OPENSTACK_VERSIONS) == version


def test_versions_sort_by_age() -> None:
    assert list(EC2_VERSIONS) == sorted(EC2_VERSIONS)
    assert EC2_VERSIONS[0] == "1.0"
    assert list(OPENSTACK_VERSIONS) == sorted(OPENSTACK_VERSIONS)
