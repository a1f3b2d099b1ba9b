"""The desired state of namespaces, and the configuration of the programs inside them, as pure functions.

Modules, in reading order:

- `namespace_state`: a namespace with its devices, routes and rules, and a daemon.
- `addresses`: the addresses of the metadata service.
- `diff`: the changes from the actual to the desired state of a namespace.
- `dhcp_network`: a network with DHCP, its DHCP port and its `qdhcp-` namespace.
- `metadata_path`: the path of a subnet's instances to the metadata service.
- `dnsmasq_command`, `dnsmasq_files`: dnsmasq's command line and files.
- `router_namespace`: a router and its `qrouter-` namespace with NAT.
- `radvd`: the router advertisements of a router.
- `haproxy`, `listener_file`: the two kinds of metadata proxy.
- `port_security`: the nftables rules of a port.
- `netns_instance`: an instance of the netns driver.
"""
