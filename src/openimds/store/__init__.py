"""What is kept: SQLAlchemy models, revisions, and one module of operations per area.

Rules of this room:

1. Every write happens inside `Store.write()`: one transaction, one revision.
2. Nothing outside this room sees a mapped object after its transaction has ended.
3. What a watcher may want to hear of is declared by `Watched` in models/; no caller records changes by hand.
"""
