from __future__ import annotations

import pytest

from openimds.store.compute.server_create import hostname_from, new_reservation_id, nth


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("vm1", "vm1"),
        ("My web_1", "my-web-1"),
        ("a.b.c", "a-b-c"),
        ("máquina", "mquina"),
        ("--x--", "x"),
        ("日本", "server-id"),
        ("x" * 100, "x" * 63),
    ],
)
def test_hostname_is_derived_from_the_name(name: str, hostname: str) -> None:
    assert hostname_from(name, "id") == hostname


def test_servers_of_one_request_are_numbered() -> None:
    assert [nth("a", index, 2) for index in range(2)] == ["a-1", "a-2"]
    assert nth("a", 0, 1) == "a"


def test_reservation_id_has_ec2s_form() -> None:
    assert new_reservation_id().startswith("r-")
    assert new_reservation_id() != new_reservation_id()
