"""The store as metadata workers use it: on the database driver, without SQLAlchemy.

- `metadata_store`: instances, lookups by address, the password that a guest stores once;
- `instances`: Instance values from the rows of servers and ports;
- `instance_changes`: the instances whose documents a change affects;
- `epochs`: the parts of the revision history;
- `database`: connections, transactions, errors;
- `statements`: SQL for both databases;
- `postgresql`: connections with a limit on the silence of the server.
"""
