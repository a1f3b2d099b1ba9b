"""Files that meta_data.json names and `content/NNNN` gives: the interfaces file first, then what the user injected."""

from __future__ import annotations

from dataclasses import dataclass, field

from openimds.metadata.injected_files import interfaces_file
from openimds.resources.instance import Instance

FOLDER = "content"


@dataclass(frozen=True, slots=True)
class ContentFile:
    number: str
    """`0000`"""
    path: str | None
    """Where the guest shall put it; None for the interfaces file."""
    contents: bytes = field(repr=False)

    @property
    def content_path(self) -> str:
        """`/content/0000`"""
        return f"/{FOLDER}/{self.number}"


def content_files(instance: Instance) -> list[ContentFile]:
    """All of them, in the order of their numbers."""
    unnumbered: list[tuple[str | None, bytes]] = []
    interfaces = interfaces_file(instance.nics)
    if interfaces is not None:
        unnumbered.append((None, interfaces.encode()))
    unnumbered += [(file.path, file.contents) for file in instance.files]
    return [ContentFile(f"{number:04}", path, contents) for number, (path, contents) in enumerate(unnumbered)]
