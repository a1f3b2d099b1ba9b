"""The tables, SQLite and PostgreSQL alike.

Whoever imports one of these modules has the tables of all of them: tables refer to each other by name, and
`Base.metadata` must be whole when a database is made or migrated.
"""

from openimds.store.models import base, compute, identity, image, network

__all__ = ["agents", "base", "compute", "identity", "image", "network", "networks", "revisions", "routers", "servers"]
