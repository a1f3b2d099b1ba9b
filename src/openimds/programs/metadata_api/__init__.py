"""The main program of the metadata API and its wiring."""
