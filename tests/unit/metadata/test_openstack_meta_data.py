from __future__ import annotations

from base64 import b64decode

import pytest

from openimds.metadata.context import DocumentSettings
from openimds.metadata.openstack import meta_data
from openimds.metadata.paths import FOLSOM, GRIZZLY, LIBERTY, NEWTON_ONE, VICTORIA
from openimds.resources.instance import InstanceKey


@pytest.mark.parametrize(
    ("version", "newest"),
    [
        (FOLSOM, "availability_zone"),
        (GRIZZLY, "random_seed"),
        (LIBERTY, "project_id"),
        (NEWTON_ONE, "devices"),
        (VICTORIA, "dedicated_cpus"),
    ],
)
def test_each_version_adds_its_keys(make_context, version: str, newest: str) -> None:
    assert list(meta_data(make_context(), version))[-1] == newest


def test_document_of_a_bare_instance(make_context) -> None:
    document = meta_data(make_context(), VICTORIA)
    assert len(b64decode(document.pop("random_seed"))) == 512
    assert document == {
        "uuid": "11111111-2222-4333-8444-555555555501",
        "hostname": "bare.novalocal",
        "name": "bare",
        "launch_index": 0,
        "availability_zone": None,
        "project_id": "p1",
        "devices": [],
        "dedicated_cpus": [],
    }


def test_keys_metadata_and_dedicated_cpus_are_shown(make_context) -> None:
    context = make_context(
        key=InstanceKey("k", "ssh", "ssh-rsa A"), metadata={"b": "2", "a": ""}, dedicated_cpus=(3, 1)
    )
    document = meta_data(context, VICTORIA)
    assert document["meta"] == {"b": "2", "a": ""}
    assert document["public_keys"] == {"k": "ssh-rsa A"}
    assert document["keys"] == [{"name": "k", "type": "ssh", "data": "ssh-rsa A"}]
    assert document["dedicated_cpus"] == [1, 3]


def test_deleted_key_is_left_out(make_context) -> None:
    assert "keys" not in meta_data(make_context(key=InstanceKey("k", "ssh", None)), FOLSOM)


def test_host_name_without_a_domain(make_context) -> None:
    assert meta_data(make_context(DocumentSettings(dhcp_domain="")), FOLSOM)["hostname"] == "bare"
