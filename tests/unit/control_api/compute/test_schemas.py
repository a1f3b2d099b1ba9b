"""Server properties that the metadata service reads are refused where it could not read them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from openimds.control_api.compute.schemas import MetadataBody


@pytest.mark.parametrize(
    "metadata",
    [{}, {"team": "red", "imds": "x"}, {"imds:HttpTokens": "required", "imds:InstanceMetadataTags": "Enabled"}],
)
def test_readable(metadata: dict[str, str]) -> None:
    assert MetadataBody.model_validate({"metadata": metadata}).metadata == metadata


@pytest.mark.parametrize("name", ["imds:HttpTokens", "imds:httptokens", "imds:Anything"])
def test_not_readable(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        MetadataBody.model_validate({"metadata": {name: "requierd"}})
