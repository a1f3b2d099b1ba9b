"""The DHCP agent: `qdhcp-` namespaces, dnsmasq, and metadata on isolated networks.

Modules, in reading order:

- `network_handler`: the handler of networks with DHCP, and their DHCP ports.
- `dnsmasq_manager`: starts and reloads dnsmasq, and releases stale leases.
"""
