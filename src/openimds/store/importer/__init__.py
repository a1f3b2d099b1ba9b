"""Imports instances that were made elsewhere."""
