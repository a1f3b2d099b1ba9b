"""The tables, for SQLite and PostgreSQL.

The package imports all its modules, because tables refer to each other by name, and `Base.metadata` must be complete when
tables are created or migrated.

- `base`: what all tables share, agents, revisions; `identity`, `network`, `compute`, `image`: the tables of the services.
"""

from openimds.store.models import base, compute, identity, image, network

__all__ = ["agents", "base", "compute", "identity", "image", "network", "networks", "revisions", "routers", "servers"]
