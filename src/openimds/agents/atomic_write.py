"""Files that programs read: written whole or not at all, and only when they differ."""

from __future__ import annotations

from pathlib import Path


def write_if_changed(path: Path, text: str, mode: int = 0o644) -> bool:
    """Whether the file had another text (or was not there). Raises OSError."""
    try:
        # Bytes: a file that was half written, or is somebody's garbage, may be no text at all.
        if path.read_bytes() == text.encode():
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)
    return True
