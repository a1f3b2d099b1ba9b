"""Resolves the client of a request to a port."""
