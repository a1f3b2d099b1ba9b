"""The configuration files of the seeds are accepted, and the log names their typing error in the secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import METADATA_PROXIES, Cloud
from tests.waiting import until

SEEDS = Path(__file__).parents[1] / "data" / "seeds"


@pytest.mark.parametrize("metadata_proxy", METADATA_PROXIES)
def test_different_secrets_of_the_seeds_are_logged(fresh_cloud: Cloud, metadata_proxy: str) -> None:
    cloud = fresh_cloud
    cloud.up("--metadata-proxy", metadata_proxy)
    etc = cloud.state_dir / "etc"
    for file, ours in (("nova.conf", "SECRET_KEY"), ("metadata_agent.ini", "SECRETE_KEY")):
        text = (SEEDS / file).read_text()
        assert f"shared_secret = {ours}" in text
    # Only the secrets: the seeds' host `controller` does not resolve on this machine.
    for file, secret in (("nova.conf", "SECRET_KEY"), ("metadata_agent.ini", "SECRETE_KEY")):
        replace_secret(etc / file, secret)
    cloud.openimds("restart", "metadata-api")
    cloud.openimds("restart", "metadata-agent")
    api = ApiClient(cloud)
    network = api.network("n", "10.3.0.0/24")
    api.router("r", network)
    server = api.server("vm", network)

    # The agent serves documents from its records, and forwards only the password to the metadata API.
    path, *more = "/openstack/latest/password", "--data", "secret"

    def status() -> str:
        return cloud.inside(
            f"qvm-{server}", "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", *more,
            f"http://169.254.169.254{path}", check=False,
        )  # fmt: skip

    until(lambda: status() == "403", "the metadata API refuses the signature")
    log = cloud.log("metadata-agent")
    assert "metadata_proxy_shared_secret" in log
    assert "differ" in log
    assert "SECRETE_KEY" not in log + cloud.log("metadata-api")


def replace_secret(path: Path, secret: str) -> None:
    text, count = re.subn(r"(?m)^(metadata_proxy_shared_secret) = .*$", rf"\1 = {secret}", path.read_text())
    assert count == 1, f"{path} has no secret"
    path.write_text(text)
