"""The command line `openimds`. The module of a command is imported only when the command runs.

- `main`: the command group, and `openimds version`.
- `up`: `up`, `down`, `status` and `restart`.
- `programs`: `control-api`, `metadata-api` and the agents.
- `config`: `config sample` and `config validate`.
- `store`: `db upgrade`, `db version`, `db bootstrap`, `import instances` and `export nova`.
"""

from __future__ import annotations

from openimds.cli.main import main

__all__ = ["main"]
