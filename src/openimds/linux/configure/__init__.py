"""Makes the host's network match the desired state."""
