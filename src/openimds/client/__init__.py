"""The control API's client, for agents: the watch, reports and heartbeats, and Neutron's own calls.

The same code asks openimds' control API and a real Keystone and Neutron; the latter has no watch (NoWatchError).
"""
