"""The main program of the metadata agent and its wiring."""
