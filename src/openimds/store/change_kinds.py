"""Kinds of changes in the table `changes` that are not kinds of API objects."""

from __future__ import annotations

ADDRESSING = "addressing"
"""A change of a network's subnets, or of whether a DHCP port serves them. Only metadata documents depend on it. The object
id is the network's, because a deleted subnet or port no longer has one."""
