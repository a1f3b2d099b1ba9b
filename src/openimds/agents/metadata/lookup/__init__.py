"""Resolves the origin of a request to a port.

- resolver: the steps of a lookup
- port_queries: queries to the control API, their batches and cached results
- port_batch: the calls of one batch
- last_known: the ports of earlier responses, for the time in which the control API does not respond
- hold_queue: requests that wait for their port
"""
