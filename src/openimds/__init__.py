"""openimds: an instance metadata service for OpenStack.

Packages, from the lowest layer to the highest; imports go only downward:

- `resources`: frozen values: an instance, a port, a network.
- `metadata`, `guest_identity`, `netconfig`: rules, pure functions of values: documents, identification, desired hosts.
- `http`, `linux`, `store`, `client`: adapters: HTTP, kernel and processes, database, clients of the control API.
- `imds`: the metadata service: the handler of a guest's request, its authenticators and caches.
- `agents`, `control_api`: the reconciling agents and the metadata agent; the OpenStack subset.
- `config`: options, and one frozen settings value for each program.
- `runtime`: signals, logging, metrics, stored sockets, worker processes.
- `programs`, `supervisor`: one main for each program; `openimds up`.
- `cli`: the command line.

Every committed write has a revision, in commit order: a reader of revision N has missed nothing below N.
"""

__version__ = "0.1.0"
