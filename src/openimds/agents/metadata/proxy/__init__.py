"""Forwards requests to the metadata API.

- forwarder: signs, limits and shares requests, and selects the headers that pass
- per_key_limiter: the share of one client
"""
