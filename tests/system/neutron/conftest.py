"""Stock neutron with openimds: its namespace proxy before our agent, and our namespace proxy before its agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.system.api_client import ApiClient
from tests.system.cloud import Cloud, run
from tests.system.option_files import set_option
from tests.waiting import HANG_SECONDS, INSTALL_SECONDS

REPOSITORY = Path(__file__).parents[3]
STOCK = Path(__file__).parent / "stock"


@dataclass(frozen=True, slots=True)
class Stage:
    """Two instances on a network that is served in its DHCP namespace and by a router."""

    cloud: Cloud
    python: Path
    """The interpreter of the environment with stock neutron."""
    network: str
    router: str
    server: str
    other: str

    @property
    def folder(self) -> Path:
        """The folder of stock neutron's files. It is removed with the cloud."""
        return self.cloud.state_dir.parent

    @property
    def namespace(self) -> str:
        return f"qdhcp-{self.network}"

    def guest(self, *curl: str, server: str | None = None) -> str:
        """The output of curl in an instance, by default the first one."""
        return self.cloud.inside(
            f"qvm-{server or self.server}", "curl", "-s", "-m", f"{HANG_SECONDS:g}", *curl, check=False
        )

    @contextmanager
    def running(self, *argv: str, log: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
        """Runs a program during the block. Its output is in the file `log` of `folder`."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, env=env)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def stock_python() -> Path:
    """The interpreter of an environment with stock neutron. Each machine builds the environment once, in minutes."""
    done = run([str(REPOSITORY / "scripts" / "make-neutron")], timeout_seconds=INSTALL_SECONDS)
    return Path(done.stdout.strip()) / "bin" / "python"


@pytest.fixture(scope="module")
def stage(stock_python: Path, cloud: Cloud) -> Stage:
    set_option(cloud.state_dir / "etc" / "dhcp_agent.ini", "force_metadata", "True")
    cloud.openimds("restart", "dhcp-agent")
    api = ApiClient(cloud)
    network = api.network("n", "10.40.0.0/24")
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    api.subnet(network.id, ip_version=6, cidr="fd00::/64", **modes)
    router = api.router("r", network)
    server, other = (api.server(name, network) for name in ("vm", "other"))
    cloud.wait_booted(server, "vm")
    cloud.wait_booted(other, "other")
    return Stage(cloud, stock_python, network=network.id, router=router, server=server, other=other)
