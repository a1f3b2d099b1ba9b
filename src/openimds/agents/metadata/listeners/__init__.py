"""Listening sockets in the namespaces of this host (`metadata_proxy = direct`).

- manager: opens and closes the sockets
- files: the desired listeners, as the DHCP and L3 agents write them
"""
