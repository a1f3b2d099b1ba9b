"""The database: SQLAlchemy models, revisions, and the operations of the services.

1. Every write is inside `Store.write()`: one transaction, one revision.
2. Mapped objects do not leave this package after their transaction has ended.
3. A table whose changes are watched declares that by `Watched` (models/). The session records the changes.

- `engine`: connections, transactions, revisions; `change_log`: the changes of a transaction; `change_kinds`;
- `models`: the tables; `migrations`, `schema`, `schema_version`: their versions; `bootstrap`: the first rows;
- `identity`, `network`, `compute`, `image`: the operations of the four services; `passwords`, `ec2_ids`;
- `pagination`: filters, sort keys and pages of lists;
- `watch_store`: snapshots, changes and reports of agents;
- `importer`, `nova_objects`: instances of another cloud;
- `raw`: the read path of metadata workers, without SQLAlchemy.
"""
