"""Checklist row 34, and what else the control API must not tell: another project's instances."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from tests.contract.control.stage import Cloud, Session, control_api
from tests.security.cloud import ALPHA, BETA, GUESTS, instances_document
from tests.waiting import HANG_SECONDS

from openimds.store.importer.store import InstanceStore


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """With the two guests in it, of projects of their own."""
    with control_api(tmp_path_factory.mktemp("control")) as running:
        InstanceStore(running.store).import_instances(instances_document())
        yield running


@pytest.fixture(scope="module")
def stranger(cloud: Cloud) -> Session:
    return cloud.member("stranger")


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
def test_34_without_good_credentials_401(cloud: Cloud, path: str, token: str | None) -> None:
    headers = {} if token is None else {"X-Auth-Token": token}
    for method in ("GET", "POST", "DELETE"):
        answer = requests.request(method, cloud.url + path, headers=headers, timeout=HANG_SECONDS)
        assert answer.status_code in (401, 405), (method, answer.text)
        assert method != "GET" or answer.status_code == 401
        tell_nothing(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in PATHS if ALPHA.uuid in path]
    + [("DELETE", f"/compute/v2.1/servers/{ALPHA.uuid}"), ("DELETE", f"/compute/v2.1/servers/{ALPHA.uuid}/os-server-password")],
)  # fmt: skip
def test_34_another_projects_instance_is_not_there(stranger: Session, method: str, path: str) -> None:
    answer = stranger.call(method, path)
    assert answer.status_code == 404, answer.text
    assert ALPHA.canary not in answer.text


def test_34_nor_is_it_listed(stranger: Session) -> None:
    for path in ("/compute/v2.1/servers/detail", "/compute/v2.1/servers?all_tenants=1", "/network/v2.0/ports"):
        tell_nothing(stranger.call("GET", path))
    for path in ("/openimds/v1/snapshot?kinds=port", "/openimds/v1/changes?after=0&kinds=server"):
        answer = stranger.call("GET", path)
        assert answer.status_code == 403, answer.text


def tell_nothing(answer: requests.Response) -> None:
    for guest in GUESTS:
        assert guest.canary not in answer.text
        assert guest.project_id not in answer.text


def test_the_admin_sees_both(cloud: Cloud) -> None:
    """The proof that they are there."""
    for version in ("2.1", "2.47", "2.96"):
        told = cloud.login().call("GET", "/compute/v2.1/servers/detail?all_tenants=1", version=version)
        assert told.status_code == 200
        assert {server["id"] for server in told.json()["servers"]} == {ALPHA.uuid, BETA.uuid}
