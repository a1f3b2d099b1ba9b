from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "openimds"
GLOSSARY = ROOT / "docs" / "glossary.md"

PLAIN = """
    acceptable add adjust always asking authenticated away bad base common combined configure conflict connected
    default exceeded fetch forbidden found generated identified large many must new no not offered one open opened
    precondition put ready remove replace reported run runnable single stale supported text too unauthorized unavailable
    url
"""
"""Words that need no definition: verbs, adjectives, prepositions, and words of every program."""
NOT_YET = "chosen finding kept reads"
"""Words of classes that are still to be renamed. The list shrinks to empty."""


def test_every_word_of_a_class_name_is_in_the_glossary() -> None:
    known = {singular(word) for word in glossary_words() | {*PLAIN.split(), *NOT_YET.split()}}
    missing = {f"{word} ({name})" for name in class_names() for word in words(name) if singular(word) not in known}
    assert sorted(missing) == [], "add the words to docs/glossary.md"


def test_a_term_has_one_entry() -> None:
    terms = [term for row in rows() for term in row.split(", ")]
    assert sorted({term for term in terms if terms.count(term) > 1}) == []


def class_names() -> Iterator[str]:
    """The public classes of the source tree."""
    for path in SOURCES.rglob("*.py"):
        if "versions" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name


def words(name: str) -> list[str]:
    """`IPAllocation` has the words `ip` and `allocation`."""
    return [word.lower() for word in re.findall(r"[A-Z0-9]+(?=[A-Z][a-z]|$)|[A-Z]?[a-z]+[0-9]*|[A-Z][0-9]+", name)]


def rows() -> list[str]:
    """The first columns of the glossary's tables."""
    cells = re.findall(r"^\| ([^|]+) \|", GLOSSARY.read_text(), re.MULTILINE)
    return [cell for cell in cells if cell not in {"term", "part", "---"}]


def glossary_words() -> set[str]:
    return {
        part for word in re.findall(r"[A-Za-z][A-Za-z0-9]*", " ".join(rows())) for part in {word.lower(), *words(word)}
    }


def singular(word: str) -> str:
    return re.sub(r"(?<=[^s])s$", "", word.replace("ies", "y") if word.endswith("ies") else word)
