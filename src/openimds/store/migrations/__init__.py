"""Alembic's script folder: the tables' history. `openimds.store.schema` runs it; no alembic.ini is needed."""
