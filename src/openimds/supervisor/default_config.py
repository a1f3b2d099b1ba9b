"""The text of the configuration files that `openimds up` creates in a new state folder. All functions are pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLOUD = "openimds"
"""The cloud's name in clouds.yaml."""
SERVICE_USER = "neutron"
ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultConfig:
    """The values in the files."""

    state_path: Path
    listen: str
    control_port: int
    metadata_port: int
    namespace_prefix: str
    metadata_proxy: str
    """`direct` or `haproxy`."""
    proxy_user: str
    """The user and group of HAProxy. Empty if it runs as root."""
    service_password: str = field(repr=False)
    shared_secret: str = field(repr=False)


def configuration_files(settings: DefaultConfig) -> Mapping[str, str]:
    """The text of each file, by file name."""
    return {
        "nova.conf": _nova(settings),
        "neutron.conf": _neutron(settings),
        "metadata_agent.ini": _metadata_agent(settings),
        "dhcp_agent.ini": _DHCP_AGENT,
        "l3_agent.ini": _L3_AGENT,
        "compute_agent.ini": _COMPUTE_AGENT,
    }


def override_file(*, control: str | None, metadata: str | None, prefix: str | None, metadata_proxy: str | None) -> str:
    """The text of the file that holds the options of one `up`. `control` and `metadata` are `host:port` of the APIs."""
    lines = [
        "# The options of the last `openimds up`. Each start writes this file; programs read it after the other files.",
        "[DEFAULT]",
    ]
    if prefix is not None:
        lines.append(f"namespace_prefix = {prefix}")
    if metadata_proxy is not None:
        lines.append(f"metadata_proxy = {metadata_proxy}")
    if metadata:
        host, _, port = metadata.rpartition(":")
        lines += [f"metadata_listen = {host}", f"metadata_listen_port = {port}"]
        lines += [f"nova_metadata_host = {reachable(host)}", f"nova_metadata_port = {port}"]
    if control:
        host, _, port = control.rpartition(":")
        lines += ["[control_api]", f"listen = {host}", f"port = {port}"]
        lines += ["[keystone_authtoken]", f"auth_url = {url(reachable(host), int(port))}/v3"]
    return "\n".join(lines) + "\n"


def clouds_yaml(auth_url: str, password: str, region: str) -> str:
    """The file for the openstack client. OS_CLIENT_CONFIG_FILE is its path and OS_CLOUD the cloud in it."""
    return f"""\
# Written by `openimds up`, which updates auth_url and leaves the rest unchanged.
clouds:
  {CLOUD}:
    auth:
      auth_url: {auth_url}
      username: {ADMIN}
      password: "{password}"
      project_name: {ADMIN}
      user_domain_name: Default
      project_domain_name: Default
    region_name: {region}
    identity_api_version: 3
"""


def with_auth_url(text: str, auth_url: str) -> str:
    """Replaces the auth_url of the cloud `openimds` in clouds.yaml."""
    pattern = rf"(?m)(^  {CLOUD}:\n(?:^    .*\n)*?^\s+auth_url:[ ]*).*$"
    return re.sub(pattern, lambda found: f"{found.group(1)}{auth_url}", text, count=1)


def reachable(host: str) -> str:
    """The address at which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _nova(settings: DefaultConfig) -> str:
    return f"""\
# The control API and the metadata API. `openimds config sample nova.conf` shows every option.
[DEFAULT]
state_path = {settings.state_path}
enabled_apis = osapi_compute,metadata
metadata_listen = {settings.listen}
metadata_listen_port = {settings.metadata_port}

[control_api]
listen = {settings.listen}
port = {settings.control_port}

[neutron]
service_metadata_proxy = True
metadata_proxy_shared_secret = {settings.shared_secret}
"""


def _neutron(settings: DefaultConfig) -> str:
    return f"""\
# All agents read this file before their own.
[DEFAULT]
state_path = {settings.state_path}
namespace_prefix = {settings.namespace_prefix}
# The listener for metadata requests in a namespace: the metadata agent itself (direct), or HAProxy (haproxy).
metadata_proxy = {settings.metadata_proxy}
metadata_proxy_user = {settings.proxy_user}
metadata_proxy_group = {settings.proxy_user}

[keystone_authtoken]
auth_url = {url(reachable(settings.listen), settings.control_port)}/v3
username = {SERVICE_USER}
password = {settings.service_password}
project_name = service
"""


def _metadata_agent(settings: DefaultConfig) -> str:
    return f"""\
[DEFAULT]
nova_metadata_host = {reachable(settings.listen)}
nova_metadata_port = {settings.metadata_port}
metadata_proxy_shared_secret = {settings.shared_secret}
"""


_DHCP_AGENT = """\
[DEFAULT]
# Serve metadata in the DHCP namespace of every network:
force_metadata = False
# … or only where no router does:
enable_isolated_metadata = False
enable_metadata_network = False
"""

_L3_AGENT = """\
[DEFAULT]
enable_metadata_proxy = True
metadata_port = 9697
"""

_COMPUTE_AGENT = """\
[DEFAULT]
vif_plugging_timeout = 15

[guest]
metadata_tries = 20
metadata_delay = 1
"""
