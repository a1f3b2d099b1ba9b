"""The reconciling agents: metadata, DHCP, L3 and compute.

Modules, in reading order:

- `protocols`: the mirrored cloud state and the host adapters that the agents use.
- `reconciler`: compares the desired with the actual state, and schedules the passes.
- `provisioning_blocks`: reports to the control API that a port is in place.
- `ipv6_metadata_address`: the owner of fe80::a9fe:a9fe on a network that several hosts serve.
- `metadata_proxy`: HAProxy or direct mode in a namespace.
- `dhcp`, `l3`, `compute`: the handlers of networks, routers and servers.
- `metadata`: the metadata agent.
- `atomic_write`: writes configuration files.
- `testing`: in-memory adapters for tests.
"""
