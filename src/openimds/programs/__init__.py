"""Programs: one short main each. Read configuration, build the parts, run, stop. The only place that joins edges."""
