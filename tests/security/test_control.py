"""Checklist row 34: the control API shows no instance of another project."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from tests.contract.control.stage import Cloud, Session, control_api
from tests.security.instances import ALPHA, BETA, GUESTS, instances_document
from tests.waiting import HANG_SECONDS

from openimds.store.importer.importer import InstanceStore


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A control API with the two instances, each in a project of its own."""
    with control_api(tmp_path_factory.mktemp("control")) as running:
        InstanceStore(running.store).import_instances(instances_document())
        yield running


@pytest.fixture(scope="module")
def other_project(cloud: Cloud) -> Session:
    return cloud.member("other_project")


PATHS = [
    f"/compute/v2.1/servers/{ALPHA.uuid}",
    "/compute/v2.1/servers",
    "/compute/v2.1/servers/detail",
    f"/compute/v2.1/servers/{ALPHA.uuid}/metadata",
    f"/compute/v2.1/servers/{ALPHA.uuid}/os-server-password",
    f"/compute/v2.1/servers/{ALPHA.uuid}/os-interface",
    "/network/v2.0/ports",
    "/openimds/v1/snapshot?kinds=port",
    "/v3/projects",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "", "nonsense", "gAAAAA" + "A" * 180])
def test_34_invalid_credentials_are_401(cloud: Cloud, path: str, token: str | None) -> None:
    headers = {} if token is None else {"X-Auth-Token": token}
    for method in ("GET", "POST", "DELETE"):
        answer = requests.request(method, cloud.url + path, headers=headers, timeout=HANG_SECONDS)
        assert answer.status_code in (401, 405), (method, answer.text)
        assert method != "GET" or answer.status_code == 401
        assert_no_data(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in PATHS if ALPHA.uuid in path]
    + [("DELETE", f"/compute/v2.1/servers/{ALPHA.uuid}"), ("DELETE", f"/compute/v2.1/servers/{ALPHA.uuid}/os-server-password")],
)  # fmt: skip
def test_34_instance_of_another_project_is_404(other_project: Session, method: str, path: str) -> None:
    answer = other_project.call(method, path)
    assert answer.status_code == 404, answer.text
    assert ALPHA.canary not in answer.text


def test_34_instance_of_another_project_is_not_listed(other_project: Session) -> None:
    for path in ("/compute/v2.1/servers/detail", "/compute/v2.1/servers?all_tenants=1", "/network/v2.0/ports"):
        assert_no_data(other_project.call("GET", path))
    for path in ("/openimds/v1/snapshot?kinds=port", "/openimds/v1/changes?after=0&kinds=server"):
        answer = other_project.call("GET", path)
        assert answer.status_code == 403, answer.text


def assert_no_data(answer: requests.Response) -> None:
    for guest in GUESTS:
        assert guest.canary not in answer.text
        assert guest.project_id not in answer.text


def test_admin_lists_the_instances_of_all_projects(cloud: Cloud) -> None:
    """Shows that the other tests can fail."""
    for version in ("2.1", "2.47", "2.96"):
        answer = cloud.login().call("GET", "/compute/v2.1/servers/detail?all_tenants=1", version=version)
        assert answer.status_code == 200
        assert {server["id"] for server in answer.json()["servers"]} == {ALPHA.uuid, BETA.uuid}
