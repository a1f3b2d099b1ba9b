"""Edits of the configuration files in a cloud's `etc`."""

from __future__ import annotations

import re
from pathlib import Path


def set_option(file: Path, name: str, value: str) -> None:
    """Sets an option of the section [DEFAULT]."""
    text = re.sub(rf"(?m)^{name} *=.*\n", "", file.read_text())
    file.write_text(text.replace("[DEFAULT]\n", f"[DEFAULT]\n{name} = {value}\n", 1))


def option(file: Path, name: str) -> str:
    found = re.search(rf"(?m)^{name} *= *(\S+)", file.read_text())
    assert found, f"{file} has no {name}"
    return found.group(1)
