"""The L3 agent: `qrouter-` namespaces, NAT, and metadata through the router.

Modules, in reading order:

- `router_handler`: the handler of routers, gratuitous ARP and conntrack deletion.
- `radvd_manager`: starts and stops radvd.
"""
