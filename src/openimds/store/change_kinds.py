"""Kinds of changes that no object of the API has, on the wire and in table `changes`."""

from __future__ import annotations

ADDRESSING = "addressing"
"""Heard of by what shows documents alone: the network's subnets, and which of them a DHCP port serves. A kind of its own,
by the network's id, as a deleted subnet or port no longer tells its network."""
