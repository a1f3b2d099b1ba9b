"""Writes a namespace proxy's configuration by neutron's driver, and prints its path. Run by stock neutron's Python.

write_haproxy_config.py STATE_PATH SOCKET network|router ID HOST PORT [HOST_V6 INTERFACE]
"""

from __future__ import annotations

import sys

from neutron.agent.metadata.driver import MetadataDriver
from neutron.common import config
from neutron.conf.agent.metadata import config as metadata_config
from oslo_config import cfg


def main(state_path: str, socket: str, kind: str, identifier: str, host: str, port: str, *v6: str) -> None:
    config.register_common_config_options()
    for options, group in (
        (metadata_config.SHARED_OPTS, None),
        (metadata_config.METADATA_RATE_LIMITING_OPTS, metadata_config.RATE_LIMITING_GROUP),
        (metadata_config.METADATA_HAPROXY_OPTS, metadata_config.HAPROXY_GROUP),
    ):
        metadata_config.register_meta_conf_opts(options, cfg.CONF, group=group)
    cfg.CONF([], default_config_files=[])
    cfg.CONF.set_override("state_path", state_path)
    cfg.CONF.set_override("metadata_proxy_socket", socket)
    scope = {"network_id": identifier} if kind == "network" else {"router_id": identifier}
    listen = {"bind_address_v6": v6[0], "bind_interface": v6[1]} if v6 else {}
    # spawn_monitored_metadata_proxy calls this function before it starts HAProxy.
    write = MetadataDriver._get_metadata_proxy_callback(host, int(port), cfg.CONF, **scope, **listen)
    _haproxy, _dash_f, path = write(f"{state_path}/{identifier}.pid")
    print(path)


main(*sys.argv[1:])
