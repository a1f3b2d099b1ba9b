"""Alembic's script folder with the migrations of the tables. `openimds.store.schema` runs them without an alembic.ini."""
