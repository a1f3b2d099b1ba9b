"""The driver-level path of the metadata workers, without SQLAlchemy."""
