"""Server properties of the metadata service are rejected if the service could not parse them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from openimds.control_api.compute.schemas import MetadataBody


@pytest.mark.parametrize(
    "metadata",
    [{}, {"team": "red", "imds": "x"}, {"imds:HttpTokens": "required", "imds:InstanceMetadataTags": "Enabled"}],
)
def test_valid_imds_properties_are_accepted(metadata: dict[str, str]) -> None:
    assert MetadataBody.model_validate({"metadata": metadata}).metadata == metadata


@pytest.mark.parametrize("name", ["imds:HttpTokens", "imds:httptokens", "imds:Anything"])
def test_invalid_imds_properties_are_rejected(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        MetadataBody.model_validate({"metadata": {name: "requierd"}})
