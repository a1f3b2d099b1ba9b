"""Reconciles the actual state of a host with the desired state of the cloud.

Modules, in reading order:

- `reconciler`: compares the two states and calls the resource handler.
- `scheduler`: starts the passes: on a change, periodically, and after a failure.
"""
