"""Netlink without a library."""
