from __future__ import annotations

import pytest

from openimds.metadata.imds_options import PROPERTIES, ImdsOptions, TokenMode, effective_options, invalid_properties
from openimds.metadata.session_policy import issues_tokens

DEFAULT = ImdsOptions(http_put_response_hop_limit=2)


def test_options_without_properties_are_the_defaults() -> None:
    assert effective_options({}, DEFAULT) is DEFAULT
    assert effective_options({"team": "red", "HttpTokens": "required"}, DEFAULT) is DEFAULT


def test_each_property_sets_its_option() -> None:
    said = {
        "imds:HttpTokens": "required",
        "imds:OpenStackTokens": "Required",
        "imds:HttpEndpoint": "disabled",
        "imds:HttpPutResponseHopLimit": "64",
        "imds:InstanceMetadataTags": " ENABLED ",
        "imds:RootOnly": "enabled",
        "imds:UserDataMinutes": "30",
    }
    assert set(said) == set(PROPERTIES)
    assert effective_options(said, DEFAULT) == ImdsOptions(
        http_tokens=TokenMode.REQUIRED,
        openstack_tokens=TokenMode.REQUIRED,
        http_endpoint=False,
        http_put_response_hop_limit=64,
        instance_metadata_tags=True,
        root_only=True,
        user_data_minutes=30,
    )
    assert list(invalid_properties(said)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("imds:HttpTokens", "requierd"),
        ("imds:HttpTokens", ""),
        ("imds:OpenStackTokens", "off"),
        ("imds:HttpEndpoint", "no"),
        ("imds:HttpPutResponseHopLimit", "0"),
        ("imds:HttpPutResponseHopLimit", "65"),
        ("imds:HttpPutResponseHopLimit", "two"),
        ("imds:InstanceMetadataTags", "true"),
        ("imds:httptokens", "required"),
    ],
)
def test_invalid_property_is_ignored_and_reported(name: str, value: str) -> None:
    said = {"team": "red", name: value}
    assert effective_options(said, DEFAULT) == DEFAULT
    ((told, sentence),) = invalid_properties(said)
    assert told == name
    assert sentence.startswith(name)


@pytest.mark.parametrize(
    ("default", "asked", "result"),
    [("required", "off", "required"), ("optional", "off", "optional"), ("optional", "required", "required"),
     ("off", "optional", "optional")],
)  # fmt: skip
def test_enforced_token_modes_are_not_weakened_by_properties(default: str, asked: str, result: str) -> None:
    strict = ImdsOptions(http_tokens=TokenMode(default), openstack_tokens=TokenMode.REQUIRED, tokens_are_enforced=True)
    policy = effective_options({"imds:HttpTokens": asked, "imds:OpenStackTokens": "optional"}, strict)
    assert policy.http_tokens is TokenMode(result)
    assert policy.openstack_tokens is TokenMode.REQUIRED


@pytest.mark.parametrize(
    ("default", "asked", "result"), [(0, "10", 10), (30, "10", 10), (30, "60", 30), (30, "0", 30), (0, "0", 0)]
)
def test_enforced_user_data_time_and_root_only_are_not_weakened_by_properties(
    default: int, asked: str, result: int
) -> None:
    strict = ImdsOptions(user_data_minutes=default, root_only=True, tokens_are_enforced=True)
    policy = effective_options({"imds:UserDataMinutes": asked, "imds:RootOnly": "disabled"}, strict)
    assert policy.user_data_minutes == result
    assert policy.root_only


def test_tokens_are_issued_if_either_tree_uses_them() -> None:
    assert issues_tokens(DEFAULT)
    assert not issues_tokens(ImdsOptions(http_tokens=TokenMode.OFF))
    assert issues_tokens(ImdsOptions(http_tokens=TokenMode.OFF, openstack_tokens=TokenMode.REQUIRED))
