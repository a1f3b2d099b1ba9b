"""The section [imds] of nova.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds import config
from openimds.config import ConfigError
from openimds.metadata.imds_options import ImdsOptions, TokenMode


def load(folder: Path, text: str) -> config.MetadataApiConfig:
    file = folder / "nova.conf"
    file.write_text(text)
    return config.load_metadata_api([str(file)])


def test_unset_options_have_the_defaults_of_imds_options(tmp_path: Path) -> None:
    assert load(tmp_path, "[neutron]\n").documents.policy == ImdsOptions()


def test_all_options_are_loaded(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "[imds]\nhttp_tokens = required\nopenstack_tokens = required\nenforce_tokens = true\nhttp_endpoint = false\n"
        "http_put_response_hop_limit = 3\ninstance_metadata_tags = true\nroot_only = true\n"
        "user_data_minutes = 15\n",
    )
    assert loaded.warnings == ()
    assert loaded.documents.policy == ImdsOptions(
        http_tokens=TokenMode.REQUIRED,
        openstack_tokens=TokenMode.REQUIRED,
        tokens_are_enforced=True,
        http_endpoint=False,
        http_put_response_hop_limit=3,
        instance_metadata_tags=True,
        root_only=True,
        user_data_minutes=15,
    )


@pytest.mark.parametrize(
    "line", ["http_tokens = maybe", "openstack_tokens = off", "http_put_response_hop_limit = 65", "http_endpoint = x"]
)
def test_invalid_values_are_rejected(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]):
        load(tmp_path, f"[imds]\n{line}\n")
