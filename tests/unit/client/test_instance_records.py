"""Records and settings are equal before the encoding in the control API and after the decoding in the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.databases import migrated_store

from openimds.client.instance_records import _RECORDS, _instances
from openimds.control_api.watch.routes import _encoded_records
from openimds.metadata.context import DocumentSettings, settings_from_json, settings_to_json
from openimds.metadata.imds_options import ImdsOptions
from openimds.resources.instance import Ec2Ids, Instance
from openimds.resources.network import HostRoute
from openimds.store.importer.importer import InstanceStore

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
st.register_type_strategy(str, TEXT)
st.register_type_strategy(HostRoute, st.builds(HostRoute, TEXT, TEXT))
NUMBERS = st.integers(-(2**31), 2**31 - 1)
DATA = Path(__file__).parents[2] / "compat" / "data"


def encoded_and_decoded(instance: Instance) -> Instance | None:
    encoded = msgspec.json.encode({"revision": 7, "instances": _encoded_records({"vm": instance})})
    response = _RECORDS.decode(encoded)
    assert response.revision == 7
    return _instances(response.instances)["vm"]


@given(st.builds(Instance, launch_index=NUMBERS, dedicated_cpus=st.lists(NUMBERS).map(tuple)))
@settings(max_examples=200, deadline=None)
def test_any_record_is_decoded_unchanged(instance: Instance) -> None:
    decoded = encoded_and_decoded(instance)
    assert decoded == instance
    assert decoded is not None
    assert list(decoded.metadata) == list(instance.metadata)


def test_malformed_record_is_skipped():
    """A malformed record failed the request for all instances of the batch."""
    good = Instance(
        id="vm", project_id="p", name="vm", hostname="vm", ec2_ids=Ec2Ids(instance_id=None), flavor_name="m1"
    )
    records = {**_encoded_records({"vm": good, "gone": None}), "malformed": msgspec.Raw(b'{"id": 5}')}
    response = _RECORDS.decode(msgspec.json.encode({"revision": 7, "instances": records}))
    with capture_logs() as lines:
        assert _instances(response.instances) == {"vm": good, "gone": None}
    assert [line["instance_id"] for line in lines] == ["malformed"]


@pytest.mark.parametrize("name", ["instances.json", "many_instances.json", "sparse_instances.json"])
def test_recorded_instances_are_decoded_unchanged(tmp_path: Path, name: str) -> None:
    store = migrated_store(tmp_path)
    instances = InstanceStore(store)
    document: dict[str, Any] = json.loads((DATA / name).read_text())
    ids = instances.import_instances(document)
    assert ids
    _revision, decoded = instances.instances(ids)
    for instance_id in ids:
        instance = decoded[instance_id]
        assert instance is not None
        assert encoded_and_decoded(instance) == instance == instances.instance(instance_id)
    store.close()


def test_record_with_a_lone_surrogate_is_skipped() -> None:
    whole, half = (
        Instance(
            id="a", project_id="p", name=name, hostname="h", ec2_ids=Ec2Ids(instance_id="i-00000001"), flavor_name="f"
        )
        for name in ("vm", "\ud800")
    )
    assert set(_encoded_records({"whole": whole, "half": half, "none": None})) == {"whole", "none"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        DocumentSettings,
        static_vendor_data=st.none() | st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
        policy=st.builds(ImdsOptions),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_settings_are_decoded_unchanged(encoded: DocumentSettings) -> None:
    assert settings_from_json(json.loads(json.dumps(settings_to_json(encoded)))) == encoded
