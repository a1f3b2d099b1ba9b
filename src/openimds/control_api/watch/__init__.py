"""The extension for agents at `/openimds/v1` (docs/design/watch.md): snapshots, changes and reports.

Modules, in reading order:

- `routes`: the watch of resources, the reports of agents, and instance records for metadata agents
- `long_poll`: wakes waiting requests when their kinds change
- `policies`: the rule of the extension
"""
