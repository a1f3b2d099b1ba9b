"""Frozen values that all layers share. They have no behaviour beyond properties derived from their own fields.

Modules, in reading order:

- `instance`: an instance with all data of its documents
- `network`: networks, subnets, ports, routers, floating IPs
- `server`: a server as its compute agent sees it
- `compute`: a server as the compute API shows it, flavors, key pairs, hosts
- `image`: images
- `identity`: users, projects, roles, tokens
- `caller`: the project and the rights of a caller, for the store
- `auth`: credentials for a control API or a Keystone
- `query`: filters, sorting and pages of a collection
- `errors`: the errors of the domain
- `text`: text that cannot be encoded or stored
"""
