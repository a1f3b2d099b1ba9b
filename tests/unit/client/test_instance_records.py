"""A record is the same on both ends of the control API, whatever is in it; and so are the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from openimds.client.instance_records import _RECORDS, _instances
from openimds.control_api.watch.instance_records import _told
from openimds.metadata.context import DocumentSettings, settings_form, settings_of
from openimds.metadata.imds_options import ImdsOptions
from openimds.resources.instance import Ec2Ids, Instance
from openimds.resources.network import HostRoute
from openimds.store import schema
from openimds.store.engine import Store
from openimds.store.importer.store import InstanceStore

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
st.register_type_strategy(str, TEXT)
st.register_type_strategy(HostRoute, st.builds(HostRoute, TEXT, TEXT))
NUMBERS = st.integers(-(2**31), 2**31 - 1)
DATA = Path(__file__).parents[2] / "compat" / "data"


def there_and_back(instance: Instance) -> Instance | None:
    told = msgspec.json.encode({"revision": 7, "instances": _told({"vm": instance})})
    answer = _RECORDS.decode(told)
    assert answer.revision == 7
    return _instances(answer.instances)["vm"]


@given(st.builds(Instance, launch_index=NUMBERS, dedicated_cpus=st.lists(NUMBERS).map(tuple)))
@settings(max_examples=200, deadline=None)
def test_any_record(instance: Instance) -> None:
    found = there_and_back(instance)
    assert found == instance
    assert found is not None
    assert list(found.metadata) == list(instance.metadata)


def test_record_that_cannot_be_decoded_is_left_out():
    """One malformed record failed the request for all instances that were asked for together."""
    good = Instance(
        id="vm", project_id="p", name="vm", hostname="vm", ec2_ids=Ec2Ids(instance_id=None), flavor_name="m1"
    )
    records = {**_told({"vm": good, "gone": None}), "malformed": msgspec.Raw(b'{"id": 5}')}
    answer = _RECORDS.decode(msgspec.json.encode({"revision": 7, "instances": records}))
    with capture_logs() as lines:
        assert _instances(answer.instances) == {"vm": good, "gone": None}
    assert [line["instance_id"] for line in lines] == ["malformed"]


@pytest.mark.parametrize("name", ["instances.json", "many_instances.json", "sparse_instances.json"])
def test_all_recorded_instances(tmp_path: Path, name: str) -> None:
    store = Store(f"sqlite:///{tmp_path}/openimds.sqlite")
    schema.upgrade(store)
    instances = InstanceStore(store)
    document: dict[str, Any] = json.loads((DATA / name).read_text())
    ids = instances.import_instances(document)
    assert ids
    _revision, found = instances.instances(ids)
    for instance_id in ids:
        instance = found[instance_id]
        assert instance is not None
        assert there_and_back(instance) == instance == instances.instance(instance_id)
    store.close()


def test_half_a_surrogate_pair_is_left_out() -> None:
    whole, half = (
        Instance(
            id="a", project_id="p", name=name, hostname="h", ec2_ids=Ec2Ids(instance_id="i-00000001"), flavor_name="f"
        )
        for name in ("vm", "\ud800")
    )
    assert set(_told({"whole": whole, "half": half, "none": None})) == {"whole", "none"}


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
def test_any_settings(told: DocumentSettings) -> None:
    assert settings_of(json.loads(json.dumps(settings_form(told)))) == told
