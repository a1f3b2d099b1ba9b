"""`If-Match: revision_number=N`: the change is applied only if the resource still has revision N."""

from __future__ import annotations

from typing import Any

import pytest

V2 = "/network/v2.0"


def networks(member: Any) -> tuple[str, int]:
    """The path and revision of a new network."""
    made = member.call("POST", f"{V2}/networks", {"network": {"name": "n"}}).json()["network"]
    return f"{V2}/networks/{made['id']}", made["revision_number"]


def when(revision: object) -> dict[str, str]:
    return {"If-Match": f"revision_number={revision}"}


def test_update_succeeds_only_at_the_named_revision(member: Any) -> None:
    path, revision = networks(member)
    body = {"network": {"name": "new"}}
    done = member.call("PUT", path, body, headers=when(revision))
    assert done.status_code == 200
    assert done.json()["network"]["revision_number"] > revision
    late = member.call("PUT", path, {"network": {"name": "late"}}, headers=when(revision))
    assert late.status_code == 412
    error = late.json()["NeutronError"]
    assert error["type"] == "RevisionNumberConstraintFailed"
    assert error["message"] == (
        f"Constrained to {revision}, but current revision is {done.json()['network']['revision_number']}."
    )
    assert member.call("GET", path).json()["network"]["name"] == "new"


def test_delete_succeeds_only_at_the_named_revision(member: Any) -> None:
    path, revision = networks(member)
    assert member.call("DELETE", path, headers=when(revision + 1)).status_code == 412
    assert member.call("GET", path).status_code == 200
    assert member.call("DELETE", path, headers=when(revision)).status_code == 204


def test_resource_of_another_project_is_404_at_any_revision(member: Any, stranger: Any) -> None:
    path, revision = networks(member)
    assert stranger.call("DELETE", path, headers=when(revision)).status_code == 404


@pytest.mark.parametrize("said", ["5", "*", '"abc"', "revision_number=x", "revision_number=-1"])
def test_malformed_if_match_is_rejected(member: Any, said: str) -> None:
    path, _ = networks(member)
    refused = member.call("PUT", path, {"network": {}}, headers={"If-Match": said})
    assert refused.status_code == 400
    assert "If-Match" in refused.json()["NeutronError"]["message"]


def test_routes_without_if_match_support_reject_the_header(member: Any) -> None:
    path, revision = networks(member)
    assert member.call("PUT", f"{path}/tags", {"tags": ["a"]}, headers=when(revision)).status_code == 501
    assert member.call("GET", f"{path}/tags", headers=when(revision)).json() == {"tags": []}
