"""Rules: what a guest may read, at which path, in which version."""
