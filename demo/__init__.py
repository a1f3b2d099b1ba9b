"""The seeds' story, told on the terminal and checked: `make demo`."""
