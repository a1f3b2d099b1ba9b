"""Builds the settings of each program from its options."""
