"""openimds: the instance metadata service of an OpenStack cloud.

Five words carry the architecture:

- a **resource** (`resources/`) is a frozen value: an instance, a port, a network;
- a **rule** (`metadata/`, `identity/`, `wiring/`) takes values and returns values, and touches nothing;
- an **edge** (`web/`, `agents/`, `linux/`, `http/`, `store/`, `client/`) does the I/O of one kind;
- a **program** (`daemons/`) reads configuration, joins edges, runs and stops;
- a **revision** numbers every committed write; whoever has seen N has missed nothing below N.

Imports go only downward: daemons and cli → edges → rules → resources.
"""

__version__ = "0.1.0"
