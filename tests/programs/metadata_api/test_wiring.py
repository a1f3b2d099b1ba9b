"""The service configuration that is derived from the configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest

from openimds import config
from openimds.programs.metadata_api.wiring import plan_service
from openimds.runtime.lifecycle import StartupError


def load(folder: Path, text: str) -> config.MetadataApiConfig:
    file = folder / "nova.conf"
    file.write_text(text)
    return config.load_metadata_api([str(file)])


def test_token_secrets_are_the_shared_secrets(tmp_path: Path) -> None:
    text = "[neutron]\nservice_metadata_proxy = {}\nmetadata_proxy_shared_secret = a\nmetadata_proxy_shared_secret_previous = b\n"
    for proxied in (True, False):
        plan = plan_service(load(tmp_path, text.format(proxied)))
        assert (tuple(plan.tokens.secrets), plan.tokens.is_direct) == (("a", "b"), not proxied)


@pytest.mark.parametrize("option", ["http_tokens", "openstack_tokens"])
def test_required_tokens_without_a_secret_are_a_startup_error(tmp_path: Path, option: str) -> None:
    loaded = load(tmp_path, f"[imds]\n{option} = required\n")
    with pytest.raises(StartupError, match="metadata_proxy_shared_secret"):
        plan_service(loaded)
