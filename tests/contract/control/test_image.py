"""Image v2 over HTTP."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest
import requests
from tests.contract.control.stage import Cloud, Session
from tests.waiting import HANG_SECONDS

from openimds.resources.caller import ALL_RIGHTS
from openimds.resources.compute import Requester
from openimds.resources.errors import NotFound
from openimds.store.engine import utc_now
from openimds.store.image import ImageStore
from openimds.store.models.image import Image

IMAGES = "/image/v2/images"
PATCH = "application/openstack-images-v2.1-json-patch"
DATA = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def user(cloud: Cloud) -> Session:
    return cloud.member("ina")


def make(session: Session, **more: Any) -> dict[str, Any]:
    return session.post(IMAGES, {"name": "i1", "container_format": "bare", "disk_format": "raw", **more})


def upload(session: Session, image_id: str, data: bytes = DATA) -> requests.Response:
    headers = {"Content-Type": "application/octet-stream"}
    return session.call("PUT", f"{IMAGES}/{image_id}/file", data=data, headers=headers)


def patch(session: Session, image_id: str, *operations: dict[str, Any]) -> requests.Response:
    headers = {"Content-Type": PATCH}
    return session.call("PATCH", f"{IMAGES}/{image_id}", data=json.dumps(operations), headers=headers)


def test_version_documents_are_served(cloud: Cloud) -> None:
    answer = requests.get(cloud.url + "/image", timeout=HANG_SECONDS)
    assert answer.status_code == 300
    assert answer.json()["versions"][0]["links"][0]["href"] == f"{cloud.url}/image/v2/"


def test_image_is_created_uploaded_downloaded_and_deleted(cloud: Cloud, user: Session) -> None:
    image = make(user, os_type="linux", tags=["a"])
    assert (image["status"], image["os_type"], image["visibility"]) == ("queued", "linux", "shared")
    assert user.call("GET", f"{IMAGES}/{image['id']}/file").status_code == 204
    assert upload(user, image["id"]).status_code == 204
    shown = user.get(f"{IMAGES}/{image['id']}")
    assert (shown["status"], shown["size"]) == ("active", len(DATA))
    assert shown["checksum"] == hashlib.md5(DATA).hexdigest()
    assert shown["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    assert user.call("GET", f"{IMAGES}/{image['id']}/file").content == DATA
    assert (cloud.state / "images" / image["id"]).read_bytes() == DATA
    assert upload(user, image["id"]).status_code == 409
    assert user.call("DELETE", f"{IMAGES}/{image['id']}").status_code == 204
    user.refused(404, "GET", f"{IMAGES}/{image['id']}")
    assert not (cloud.state / "images" / image["id"]).exists()


def test_id_of_a_deleted_image_is_not_taken_again(cloud: Cloud, admin: Session, user: Session) -> None:
    public = make(admin, visibility="public")["id"]
    assert admin.call("DELETE", f"{IMAGES}/{public}").status_code == 204
    for session in (user, admin):
        for spelled in (public, public.upper(), public.replace("-", "")):
            refused = session.refused(409, "POST", IMAGES, {"id": spelled, "name": "i1", "visibility": "community"})
            assert refused == f"Image ID {public} already exists!"
    admin.refused(404, "GET", f"{IMAGES}/{public}")


def test_upload_of_a_deleted_image_activates_no_image(cloud: Cloud, user: Session) -> None:
    """The uploaded data belongs to no image, even if another image with the same id is in the database."""
    image_id = make(user)["id"]
    asker = Requester(user_id=user.user_id, project_id=user.project_id, request_id="r", rights=ALL_RIGHTS)
    images = ImageStore(cloud.store, cloud.state / "images")
    begun = images.begin_upload(image_id, asker)
    begun.write(b"evil")
    images.delete(image_id, asker)
    with cloud.store.write() as session:
        now = utc_now()
        session.add(Image(id=image_id, owner=user.project_id, status="active", created_at=now, updated_at=now))
    data = cloud.state / "images" / image_id
    data.write_bytes(b"good")
    with pytest.raises(NotFound, match="was deleted while its data was uploaded"):
        begun.finish()
    begun.abort()
    assert user.call("GET", f"{IMAGES}/{image_id}/file").content == b"good"
    assert [path.name for path in data.parent.glob(f"{image_id}*")] == [image_id]


def test_image_is_patched(user: Session) -> None:
    image = make(user)
    changed = patch(
        user,
        image["id"],
        {"op": "replace", "path": "/name", "value": "other"},
        {"op": "add", "path": "/kernel_id", "value": "x"},
        {"op": "replace", "path": "/tags", "value": ["one", "two"]},
        {"op": "replace", "path": "/protected", "value": True},
    ).json()
    assert (changed["name"], changed["kernel_id"], changed["tags"]) == ("other", "x", ["one", "two"])
    assert "protected" in user.refused(403, "DELETE", f"{IMAGES}/{image['id']}")
    patch(user, image["id"], {"op": "replace", "path": "/protected", "value": False})
    assert "kernel_id" not in patch(user, image["id"], {"op": "remove", "path": "/kernel_id"}).json()
    assert user.call("PUT", f"{IMAGES}/{image['id']}/tags/three").status_code == 204
    assert user.call("DELETE", f"{IMAGES}/{image['id']}/tags/one").status_code == 204
    assert user.get(f"{IMAGES}/{image['id']}")["tags"] == ["two", "three"]
    for operations, status in (
        ([{"op": "replace", "path": "/status", "value": "active"}], 403),
        ([{"op": "replace", "path": "/disk_format", "value": "floppy"}], 400),
        ([{"op": "replace", "path": "/min_ram", "value": -1}], 400),
        ([{"op": "move", "path": "/name"}], 400),
        ([{"op": "remove", "path": "/nothing"}], 400),
        (["x"], 400),
    ):
        assert patch(user, image["id"], *operations).status_code == status, operations


def test_visibility_limits_access(cloud: Cloud, admin: Session, user: Session) -> None:
    image = make(user, name="private one")
    other = cloud.member("otto")
    other.refused(404, "GET", f"{IMAGES}/{image['id']}")
    assert other.get(f"{IMAGES}?name=private one")["images"] == []
    assert [item["name"] for item in other.get(f"{IMAGES}?visibility=public")["images"]] == ["guest"]
    guest = other.get(f"{IMAGES}?name=guest")["images"][0]
    assert "permitted" in other.refused(403, "DELETE", f"{IMAGES}/{guest['id']}")
    other.refused(403, "POST", IMAGES, {"name": "p", "visibility": "public"})
    assert admin.post(IMAGES, {"name": "p", "visibility": "public"})["visibility"] == "public"


def test_list_is_filtered_sorted_and_paged(cloud: Cloud) -> None:
    user = cloud.member("lars")
    for name in ("a", "b", "c"):
        make(user, name=name, tags=[name], os_type="linux" if name == "a" else "bsd")

    def names(query: str) -> list[str]:
        return [item["name"] for item in user.get(f"{IMAGES}?{query}")["images"]]

    assert names("sort=name:asc&visibility=shared") == ["a", "b", "c"]
    assert sorted(names("name=in:a,b")) == ["a", "b"]
    assert names("tag=c") == ["c"]
    assert names("os_type=linux") == ["a", "guest"]
    assert "guest" in names("status=active")
    first = user.get(f"{IMAGES}?limit=2&sort=name:asc")
    assert [item["name"] for item in user.get("/image" + first["next"])["images"]] == ["c", "guest"]


def test_invalid_input_is_rejected(user: Session) -> None:
    for sent, word in (
        ({"name": "x", "disk_format": "floppy"}, "disk_format"),
        ({"name": "x" * 256}, "name"),
        ({"name": "x", "min_disk": "much"}, "min_disk"),
        ({"name": "x", "id": "no"}, "id"),
        ({"name": "x", "p": 1}, "p"),
        ([], "body"),
    ):
        assert word in user.refused(400, "POST", IMAGES, sent), sent
    image = make(user)
    user.refused(409, "POST", IMAGES, {"id": image["id"]})
    assert "Content-Type" in user.call("PUT", f"{IMAGES}/{image['id']}/file", data=b"x").json()["message"]
    user.refused(404, "GET", f"{IMAGES}/{uuid.uuid4()}")
    user.refused(404, "GET", f"{IMAGES}/{image['id']}/members")
    user.refused(501, "POST", f"{IMAGES}/{image['id']}/import", {})
    formless = user.post(IMAGES, {"name": "f"})
    assert upload(user, formless["id"]).status_code == 400


def test_full_disk_leaves_the_image_unchanged(cloud: Cloud, user: Session) -> None:
    image = make(user)
    part = cloud.state / "images" / f"{image['id']}.part"
    part.symlink_to("/dev/full")
    answer = upload(user, image["id"], b"x" * 100_000)
    assert answer.status_code == 503
    assert "The log has the reason" in answer.json()["message"]
    assert str(cloud.state) not in answer.text
    assert user.get(f"{IMAGES}/{image['id']}")["status"] == "queued"
    assert upload(user, image["id"]).status_code == 204
