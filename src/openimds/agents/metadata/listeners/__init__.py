"""Opens and closes the metadata agent's listeners in namespaces."""
