"""Makes the host's network match the desired state.

- configurator: the namespaces and bridges of the host, and the order of the changes.
- namespace: reads the state of a namespace, and applies one change to it.
- user_namespace: the user namespaces and the kernel's limits of a guest.
- neighbour_discovery: gratuitous ARP, duplicate address detection, neighbour probes.
- ownership: the record of what this system has made, on disk.
- cleanup: removes everything in that record.
"""
