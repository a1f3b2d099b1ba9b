"""The command line: one file a command group.

A command's module is imported when the command is called: `openimds --help` and shell completion stay fast.
"""

from __future__ import annotations

from openimds.cli.main import main

__all__ = ["main"]
