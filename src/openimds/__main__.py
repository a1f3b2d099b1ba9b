"""`python -m openimds`"""

from __future__ import annotations

from openimds.cli import main

if __name__ == "__main__":
    main()
