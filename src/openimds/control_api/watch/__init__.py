"""The extension for agents: list, watch, report (docs/design/watch.md)."""
