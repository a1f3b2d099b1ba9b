"""Reconciles the desired state with the actual state."""
