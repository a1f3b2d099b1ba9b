"""The metadata agent: finds out who asks, signs, and forwards to the metadata API.

A request's straight line (service.py): where from (the namespace proxy's headers) → who (finder.py) → signed →
forwarded (forwarding.py) → answered unchanged.
"""
