"""Identity v3 over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import requests
from tests.contract.control.stage import ADMIN_PASSWORD, Cloud, Session, password_login, sentence
from tests.waiting import HANG_SECONDS

from openimds.control_api.identity.tokens import TokenSealer, TokenService
from openimds.store.engine import utc_now
from openimds.store.identity import IdentityStore


def test_discovery_leads_to_v3(cloud: Cloud) -> None:
    root = requests.get(cloud.url + "/", timeout=HANG_SECONDS)
    assert root.status_code == 300
    links = root.json()["versions"]["values"][0]["links"]
    assert links[0]["href"] == f"{cloud.url}/v3/"
    assert requests.get(cloud.url + "/v3/", timeout=HANG_SECONDS).json()["version"]["id"].startswith("v3")
    old = requests.get(cloud.url + "/v2.0", timeout=HANG_SECONDS)
    assert old.json()["versions"]["values"][0]["id"].startswith("v3")
    refused = requests.post(cloud.url + "/v2.0/tokens", json={}, timeout=HANG_SECONDS)
    assert refused.status_code == 404
    assert f"{cloud.url}/v3" in sentence(refused.json())


def test_token_has_user_project_roles_and_catalog(cloud: Cloud) -> None:
    admin = cloud.login()
    token = admin.body
    assert token["user"]["name"] == "admin"
    assert token["project"]["name"] == "admin"
    assert {role["name"] for role in token["roles"]} == {"admin", "member", "reader"}
    urls = {
        entry["type"]: endpoint["url"]
        for entry in token["catalog"]
        for endpoint in entry["endpoints"]
        if endpoint["interface"] == "public"
    }
    assert urls == {
        "identity": f"{cloud.url}/v3",
        "network": f"{cloud.url}/network",
        "compute": f"{cloud.url}/compute/v2.1",
        "image": f"{cloud.url}/image",
        "instance-metadata": f"{cloud.url}/openimds/v1",
    }


def test_token_has_the_requested_scope(cloud: Cloud, admin: Session) -> None:
    by_id = password_login("admin", ADMIN_PASSWORD)
    by_id["auth"]["scope"] = {"project": {"id": admin.project_id}}
    assert _token(cloud, by_id).json()["token"]["project"]["id"] == admin.project_id
    system = password_login("admin", ADMIN_PASSWORD)
    system["auth"]["scope"] = {"system": {"all": True}}
    assert _token(cloud, system).json()["token"]["system"] == {"all": True}
    unscoped = password_login("admin", ADMIN_PASSWORD)
    unscoped["auth"]["scope"] = "unscoped"
    body = _token(cloud, unscoped).json()["token"]
    assert "project" not in body
    assert "roles" not in body
    elsewhere = password_login("admin", ADMIN_PASSWORD)
    elsewhere["auth"]["scope"] = {"project": {"name": "no such", "domain": {"name": "Default"}}}
    assert _token(cloud, elsewhere).status_code == 401


def test_token_from_a_token_expires_with_it(cloud: Cloud, admin: Session) -> None:
    again = {"auth": {"identity": {"methods": ["token"], "token": {"id": admin.token}}}}
    token = _token(cloud, again).json()["token"]
    assert token["expires_at"] == admin.body["expires_at"]
    assert token["audit_ids"][1] == admin.body["audit_ids"][0]
    assert token["project"]["name"] == "admin"


@pytest.mark.parametrize(("user", "password"), [("admin", "wrong"), ("nobody", ADMIN_PASSWORD), ("admin", "")])
def test_failed_logins_have_one_response(cloud: Cloud, user: str, password: str) -> None:
    answer = _token(cloud, password_login(user, password, "admin"))
    assert answer.status_code == 401
    assert sentence(answer.json()) == (
        "The request you have made requires authentication: the user or the password is wrong."
    )


def test_malformed_logins_name_the_field(cloud: Cloud) -> None:
    body = password_login("admin", ADMIN_PASSWORD)
    del body["auth"]["identity"]["password"]["user"]["password"]
    answer = _token(cloud, body)
    assert answer.status_code == 400
    assert "auth.identity.password.user.password" in sentence(answer.json())
    garbage = requests.post(cloud.url + "/v3/auth/tokens", data="{", timeout=HANG_SECONDS)
    assert garbage.status_code == 400
    assert "not JSON" in sentence(garbage.json())
    unknown = {"auth": {"identity": {"methods": ["application_credential"]}}}
    assert _token(cloud, unknown).status_code == 501


def test_missing_or_invalid_token_is_401(cloud: Cloud) -> None:
    for headers in ({}, {"X-Auth-Token": "gAAAAA"}, {"X-Auth-Token": "x" * 5000}):
        answer = requests.get(cloud.url + "/v3/projects", headers=headers, timeout=HANG_SECONDS)
        assert answer.status_code == 401
        assert "WWW-Authenticate" in answer.headers


def test_expired_token_is_rejected(cloud: Cloud, admin: Session) -> None:
    keys = (cloud.state / "etc" / "token_keys").read_bytes().split()
    credentials = IdentityStore(cloud.store).credentials
    yesterday = TokenService(TokenSealer(keys), credentials, lambda: utc_now() - timedelta(days=1), timedelta(hours=1))
    scope = TokenSealer(keys).open(admin.token).scope
    text, _ = yesterday.issue(admin.user_id, scope, ("password",))
    answer = requests.get(cloud.url + "/v3/projects", headers={"X-Auth-Token": text}, timeout=HANG_SECONDS)
    assert answer.status_code == 401


def test_token_is_validated_and_revoked(cloud: Cloud, admin: Session) -> None:
    other = cloud.login()
    subject = {"X-Auth-Token": admin.token, "X-Subject-Token": other.token}
    url = cloud.url + "/v3/auth/tokens"
    assert requests.get(url, headers=subject, timeout=HANG_SECONDS).json()["token"]["user"]["name"] == "admin"
    assert requests.head(url, headers=subject, timeout=HANG_SECONDS).status_code == 200
    assert requests.delete(url, headers=subject, timeout=HANG_SECONDS).status_code == 204
    assert requests.get(url, headers=subject, timeout=HANG_SECONDS).status_code == 404
    assert other.call("GET", "/v3/projects").status_code == 401


def test_member_sees_only_its_own_user_and_projects(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("mara")
    assert user.get(f"/v3/users/{user.user_id}")["user"]["name"] == "mara"
    assert [item["name"] for item in user.get("/v3/auth/projects")["projects"]] == ["mara"]
    assert user.get(f"/v3/projects/{user.project_id}")["project"]["name"] == "mara"
    for path in ("/v3/users", "/v3/projects", "/v3/roles", f"/v3/users/{admin.user_id}"):
        user.refused(403, "GET", path)
    for path, body in (("/v3/users", {"user": {"name": "x"}}), ("/v3/projects", {"project": {"name": "x"}})):
        user.refused(403, "POST", path, body)


def test_projects_users_and_roles_are_managed(admin: Session) -> None:
    project = admin.post("/v3/projects", {"project": {"name": "p9", "description": "d"}})["project"]
    assert admin.get("/v3/projects?name=p9")["projects"][0]["id"] == project["id"]
    admin.refused(409, "POST", "/v3/projects", {"project": {"name": "p9"}})
    changed = admin.call("PATCH", f"/v3/projects/{project['id']}", {"project": {"description": "other"}})
    assert changed.json()["project"]["description"] == "other"
    user = admin.post("/v3/users", {"user": {"name": "u9", "password": "one", "email": "u@x"}})["user"]
    assert user["email"] == "u@x"
    assert "password" not in user
    role = admin.post("/v3/roles", {"role": {"name": "r9"}})["role"]
    grant = f"/v3/projects/{project['id']}/users/{user['id']}/roles/{role['id']}"
    assert admin.call("HEAD", grant).status_code == 404
    assert admin.call("PUT", grant).status_code == 204
    assert admin.call("HEAD", grant).status_code == 204
    names = admin.get(f"/v3/role_assignments?user.id={user['id']}&include_names=true")["role_assignments"]
    assert names[0]["role"]["name"] == "r9"
    assert names[0]["scope"]["project"]["name"] == "p9"
    assert admin.call("DELETE", grant).status_code == 204
    for path in (f"/v3/roles/{role['id']}", f"/v3/users/{user['id']}", f"/v3/projects/{project['id']}"):
        assert admin.call("DELETE", path).status_code == 204
        admin.refused(404, "GET", path)


def test_new_password_revokes_the_old_tokens(cloud: Cloud) -> None:
    user = cloud.member("petra")
    path = f"/v3/users/{user.user_id}/password"
    user.refused(401, "POST", path, {"user": {"original_password": "wrong", "password": "new"}})
    assert user.call("POST", path, {"user": {"original_password": "petra", "password": "new"}}).status_code == 204
    assert user.call("GET", "/v3/auth/projects").status_code == 401
    assert cloud.login("petra", "new", "petra").user_id == user.user_id


def test_disabled_user_is_rejected(cloud: Cloud, admin: Session) -> None:
    user = cloud.member("dora")
    admin.call("PATCH", f"/v3/users/{user.user_id}", {"user": {"enabled": False}})
    assert user.call("GET", "/v3/auth/projects").status_code == 401
    assert _token(cloud, password_login("dora", "dora", "dora")).status_code == 401


def test_unsupported_routes_are_501(admin: Session) -> None:
    admin.refused(404, "GET", f"/v3/users/{admin.user_id}/application_credentials")
    admin.refused(501, "POST", "/v3/domains", {"domain": {"name": "x"}})
    admin.refused(501, "POST", "/v3/services", {"service": {"type": "x"}})
    admin.refused(405, "DELETE", "/v3/users")


def _token(cloud: Cloud, body: dict[str, Any]) -> requests.Response:
    return requests.post(cloud.url + "/v3/auth/tokens", json=body, timeout=HANG_SECONDS)
