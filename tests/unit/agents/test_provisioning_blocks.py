from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.netconfig.cloud import GUEST_PORT

from openimds.agents.provisioning_blocks import REPEAT_SECONDS, NotReportedError, ProvisioningBlocks
from openimds.resources.network import Port

ACTIVE = replace(GUEST_PORT, status="ACTIVE", provisioning_blocks=())
WAITING = replace(GUEST_PORT, status="DOWN", binding_generation=3, provisioning_blocks=("l2", "dhcp"))


class ApiError(Exception):
    def __init__(self, status: int | None) -> None:
        super().__init__("refused")
        self.status = status


class Api:
    def __init__(self) -> None:
        self.reports: list[tuple[str, str, int | None]] = []
        self.error: ApiError | None = None

    def port_provisioned(self, port_id: str, entity: str, binding_generation: int | None = None) -> None:
        if self.error:
            raise self.error
        self.reports.append((port_id, entity, binding_generation))


class Stage:
    def __init__(self) -> None:
        self.now = 0.0
        self.api = Api()
        self.blocks = ProvisioningBlocks(self.api, clock=lambda: self.now)

    def report(self, *ports: Port, entity: str = "dhcp") -> list[tuple[str, int | None]]:
        """The new reports of one pass: (entity, binding generation)."""
        before = len(self.api.reports)
        self.blocks.report(ports, entity)  # type: ignore[arg-type]
        return [(entity, generation) for _port, entity, generation in self.api.reports[before:]]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_port_that_awaits_the_entity_is_reported_with_its_binding(stage: Stage) -> None:
    assert stage.report(WAITING) == [("dhcp", 3)]
    assert stage.report(WAITING, entity="l2") == [("l2", 3)]


@pytest.mark.parametrize(
    "port", [ACTIVE, replace(WAITING, provisioning_blocks=("l2",)), replace(ACTIVE, status="DOWN")]
)
def test_port_that_does_not_await_the_entity_is_not_reported(stage: Stage, port: Port) -> None:
    assert stage.report(port) == []


def test_reset_of_the_control_api_is_reported_again(stage: Stage) -> None:
    """Ports created before their server once stayed DOWN: they had the same addresses, but a new binding."""
    assert stage.report(replace(WAITING, binding_generation=1)) == [("dhcp", 1)]
    assert stage.report(replace(WAITING, binding_generation=2)) == [("dhcp", 2)]


def test_port_is_reported_again_when_the_view_has_a_new_object(stage: Stage) -> None:
    for _ in range(2):
        assert stage.report(replace(WAITING)) == [("dhcp", 3)]


def test_same_view_is_repeated_only_after_a_pause(stage: Stage) -> None:
    assert [len(stage.report(WAITING)) for _ in range(3)] == [1, 0, 0]
    stage.now = REPEAT_SECONDS
    assert stage.report(WAITING) == [("dhcp", 3)]


def test_forgotten_port_is_reported_immediately(stage: Stage) -> None:
    stage.report(WAITING)
    stage.blocks.forget_all_but([WAITING.id])
    assert stage.report(WAITING) == []
    stage.blocks.forget_all_but([])
    assert stage.report(WAITING) == [("dhcp", 3)]


@pytest.mark.parametrize(("status", "count"), [("DOWN", 1), ("ACTIVE", 0)])
def test_status_decides_if_the_api_has_no_provisioning_blocks(stage: Stage, status: str, count: int) -> None:
    port = replace(GUEST_PORT, status=status, provisioning_blocks=None)
    assert stage.report(port) == [("dhcp", None)] * count


def test_failure_is_raised_after_all_ports_were_tried_and_is_reported_again(stage: Stage) -> None:
    stage.api.error = ApiError(None)
    with pytest.raises(NotReportedError, match=r"refused.*refused"):
        stage.report(WAITING, replace(WAITING, id="other"))
    stage.api.error = None
    assert stage.report(WAITING) == [("dhcp", 3)]


def test_deleted_port_is_not_a_failure(stage: Stage) -> None:
    stage.api.error = ApiError(404)
    assert stage.report(WAITING) == []
