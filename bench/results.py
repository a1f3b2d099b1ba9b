"""RESULTS.md: sections by title, of which a run replaces those that it measured."""

from __future__ import annotations

from collections.abc import Sequence


def with_sections(before: str, head: Sequence[str], sections: Sequence[Sequence[str]], date: str) -> str:
    """The file's new text. Each section begins with its title, `## …`; one of a new title is added at the end."""
    kept = {text.partition("\n")[0]: text.strip() for text in before.split("\n## ")[1:]}
    for section in sections:
        text = "\n".join([*section, "", f"Measured on {date}."]).removeprefix("## ")
        kept[text.partition("\n")[0]] = text.strip()
    return "\n\n## ".join(["\n".join(head), *kept.values()]) + "\n"
