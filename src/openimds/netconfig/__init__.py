"""Rules: what a namespace should look like, and the text of the configurations of the programs in it."""
