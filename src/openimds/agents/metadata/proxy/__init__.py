"""Forwards requests to the metadata API.

- forwarder: signs, limits and shares requests
- headers: the headers that pass in each direction
- per_key_limiter: the share of one client
"""
