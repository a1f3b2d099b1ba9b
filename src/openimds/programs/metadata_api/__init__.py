"""The metadata API.

- main: start, workers
- worker: one process
- wiring: the handler and its parts
- tls: the TLS context
"""
