"""Process identity and daemons."""
