"""Resolves the origin of a request to a port.

- resolver: the steps of a lookup
- port_queries: queries to the control API
- hold_queue: requests that wait for their port
"""
