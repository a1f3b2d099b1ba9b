"""The metadata agent.

- main: start, workers
- worker: one process
- sockets: the unix sockets
- direct_listeners: the listeners of direct mode
- adapters: pool, control API client and neighbour tables for `agents/metadata`
"""
