"""Network namespaces: create, enter, list and probe."""
