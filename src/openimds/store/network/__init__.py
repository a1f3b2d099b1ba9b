"""The network's operations, area by area. Neutron's rules and words; each function works in a session that it is given.

- `service.NetworkStore` is what the API calls: one transaction a call, JSON in Neutron's shape out;
- `ports.create_port`, `ports.delete_port` and their like are for others who write ports in a transaction of their own.
"""

from __future__ import annotations
