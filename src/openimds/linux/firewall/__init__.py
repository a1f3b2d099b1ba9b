"""iptables and nftables rules.

- iptables: reads and replaces iptables rules of a namespace; applies, lists and deletes nftables tables of the host.
- ruleset_cache: the rules of namespaces, cached as long as their ruleset does not change.
- bridge_forward: accepts packets within a bridge in the host's FORWARD chains.
- notrack: exempts bridged packets from connection tracking.
- port_security: the chains that filter the packets of each port.
"""
