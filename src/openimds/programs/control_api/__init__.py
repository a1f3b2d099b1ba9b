"""The main program of the control API and its wiring."""
