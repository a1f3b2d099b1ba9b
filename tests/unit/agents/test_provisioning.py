from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.wiring.cloud import GUEST_PORT

from openimds.agents.provisioning import NotReportedError, Provisioning

DOWN, ACTIVE = replace(GUEST_PORT, status="DOWN"), replace(GUEST_PORT, status="ACTIVE")


class Refusal(Exception):
    def __init__(self, status: int | None) -> None:
        super().__init__("refused")
        self.status = status


class Api:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.refusal: Refusal | None = None

    def port_provisioned(self, port_id: str, entity: str) -> None:
        if self.refusal:
            raise self.refusal
        self.told.append((port_id, entity))


def test_each_state_is_told_once() -> None:
    provisioning = Provisioning(api := Api())
    for port in (DOWN, DOWN, ACTIVE, ACTIVE, DOWN, replace(DOWN, mac_address="fa:16:3e:00:00:06")):
        provisioning.report([port], "dhcp")
    assert len(api.told) == 3


def test_entities_are_apart_and_forgotten_ports_are_told_anew() -> None:
    provisioning = Provisioning(api := Api())
    provisioning.report([DOWN], "dhcp")
    provisioning.report([DOWN], "l2")
    provisioning.forget_all_but([DOWN.id])
    provisioning.report([DOWN], "dhcp")
    provisioning.forget_all_but([])
    provisioning.report([DOWN], "dhcp")
    assert [entity for _port, entity in api.told] == ["dhcp", "l2", "dhcp"]


def test_failure_is_raised_after_all_were_tried_and_is_told_again() -> None:
    provisioning = Provisioning(api := Api())
    api.refusal = Refusal(None)
    with pytest.raises(NotReportedError, match="refused"):
        provisioning.report([DOWN, replace(DOWN, id="other")], "dhcp")
    api.refusal = None
    provisioning.report([DOWN], "dhcp")
    assert api.told == [(DOWN.id, "dhcp")]


def test_port_that_is_gone_is_no_failure() -> None:
    provisioning = Provisioning(api := Api())
    api.refusal = Refusal(404)
    provisioning.report([DOWN], "dhcp")
