"""Processes: identity, namespaces, programs and daemons.

- identity: processes by pid and start time; pidfd waits, signals, own pid files.
- by_namespace: the processes in a network namespace.
- daemons: programs that are run to their end, and daemons with pid files.
"""
