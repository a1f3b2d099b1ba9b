"""The L3 agent: `qrouter-` namespaces, NAT, and metadata through the router.

Modules, in reading order:

- `router_handler`: the handler of routers, with radvd, gratuitous ARP and the deletion of conntrack entries.
"""
