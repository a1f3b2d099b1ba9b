"""The operations of the network service, with Neutron's rules. Functions run in the session that they are given.

- `network_store`: the store of the network API, with one transaction for each call and Neutron's JSON as result;
- `access`: visibility, ownership and quotas;
- `networks`: networks and subnets; `ipam`, `ip_math`: addresses of ports; `ports`, `port_policy`: ports;
- `routers`, `floating_ips`, `security_groups`, `agents`;
- `serializers`: rows as Neutron's JSON.
"""

from __future__ import annotations
