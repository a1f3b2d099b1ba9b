"""Network namespaces: create, enter, list and read.

- netns: create, delete and enter namespaces, and find the processes in them.
- handles: netlink sockets and sysctl files that read a namespace without entering it.
- sockets: listening TCP sockets inside namespaces.
- probe: the listening sockets of a namespace, and connection attempts from inside it.
"""
