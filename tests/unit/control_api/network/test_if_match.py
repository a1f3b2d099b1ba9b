"""`If-Match: revision_number=N`: a change that counts only while nobody else made one."""

from __future__ import annotations

from typing import Any

import pytest

V2 = "/network/v2.0"


def networks(member: Any) -> tuple[str, int]:
    """A new network's path and revision."""
    made = member.call("POST", f"{V2}/networks", {"network": {"name": "n"}}).json()["network"]
    return f"{V2}/networks/{made['id']}", made["revision_number"]


def when(revision: object) -> dict[str, str]:
    return {"If-Match": f"revision_number={revision}"}


def test_a_change_bound_to_a_revision(member: Any) -> None:
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


def test_a_delete_bound_to_a_revision(member: Any) -> None:
    path, revision = networks(member)
    assert member.call("DELETE", path, headers=when(revision + 1)).status_code == 412
    assert member.call("GET", path).status_code == 200
    assert member.call("DELETE", path, headers=when(revision)).status_code == 204


def test_anothers_is_not_there_at_any_revision(member: Any, stranger: Any) -> None:
    path, revision = networks(member)
    assert stranger.call("DELETE", path, headers=when(revision)).status_code == 404


@pytest.mark.parametrize("said", ["5", "*", '"abc"', "revision_number=x", "revision_number=-1"])
def test_another_form_is_refused(member: Any, said: str) -> None:
    path, _ = networks(member)
    refused = member.call("PUT", path, {"network": {}}, headers={"If-Match": said})
    assert refused.status_code == 400
    assert "If-Match" in refused.json()["NeutronError"]["message"]


def test_calls_that_cannot_be_bound_are_refused_and_not_done(member: Any) -> None:
    path, revision = networks(member)
    assert member.call("PUT", f"{path}/tags", {"tags": ["a"]}, headers=when(revision)).status_code == 501
    assert member.call("GET", f"{path}/tags", headers=when(revision)).json() == {"tags": []}
