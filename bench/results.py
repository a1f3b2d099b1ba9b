"""The sections of RESULTS.md, by title. A run replaces the sections that it measured."""

from __future__ import annotations

from collections.abc import Sequence


def with_sections(before: str, head: Sequence[str], sections: Sequence[Sequence[str]], date: str) -> str:
    """Returns the new text of the file. Each section begins with its title, `## …`; a section with a new title is appended."""
    kept = {text.partition("\n")[0]: text.strip() for text in before.split("\n## ")[1:]}
    for section in sections:
        text = "\n".join([*section, "", f"Measured on {date}."]).removeprefix("## ")
        kept[text.partition("\n")[0]] = text.strip()
    return "\n\n## ".join(["\n".join(head), *kept.values()]) + "\n"
