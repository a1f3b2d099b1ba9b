"""Reports changes that others make to the host."""
