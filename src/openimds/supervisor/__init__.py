"""`openimds up`: starts, watches and restarts the programs of one machine."""
