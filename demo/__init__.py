"""`make demo`: the metadata path of an instance, shown and checked on the terminal."""
