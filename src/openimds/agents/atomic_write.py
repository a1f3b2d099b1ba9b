"""Writes the configuration files of other programs: atomically, and only when the content differs."""

from __future__ import annotations

from pathlib import Path


def write_if_changed(path: Path, text: str, mode: int = 0o644) -> bool:
    """Returns True if the file was written because it was absent or had another content. Raises OSError."""
    try:
        # Compared as bytes, because the present content may not be valid UTF-8.
        if path.read_bytes() == text.encode():
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)
    return True
