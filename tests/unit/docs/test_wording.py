"""The wording of docstrings, comments and log events (docs/style.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.docgen.log_events import LogCall, log_calls

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "openimds"
STATES = {"configuration", "ready"}
"""Events about the whole program."""


def refused_words() -> re.Pattern[str]:
    """The list in docs/style.md."""
    section = (ROOT / "docs" / "style.md").read_text().split("### Refused words\n")[1].split("\n\n")[1]
    words = section.strip().removesuffix(".").split(", ")
    return re.compile(rf"\b(?:{'|'.join(words)})s?\b(?! than)", re.IGNORECASE)


REFUSED = refused_words()


def test_docstrings_and_comments_have_no_refused_words() -> None:
    hits = {path.relative_to(SOURCES).as_posix(): refused_texts(path) for path in sources()}
    assert {path: texts for path, texts in hits.items() if texts} == {}


def test_a_log_event_is_a_noun_phrase_with_a_state() -> None:
    """As far as a program can tell: no article or pronoun at the start, no refused word, no full stop at the end."""
    calls = log_calls(SOURCES)
    assert sorted({f"{call.module}: {call.event}" for call in calls if not has_form(call)}) == []


@pytest.mark.parametrize("event", ["a port changed", "it failed", "port mirror stale.", "port", "nobody listens here"])
def test_other_forms_are_recognised(event: str) -> None:
    assert not has_form(LogCall(event, "info", (), "a.py"))


def sources() -> Iterator[Path]:
    return (path for path in sorted(SOURCES.rglob("*.py")) if "versions" not in path.parts)


def refused_texts(path: Path) -> list[str]:
    return [text[:80] for text in texts(path.read_text()) if REFUSED.search(text)]


def texts(source: str) -> Iterator[str]:
    """Docstrings, docstrings of attributes, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield " ".join(node.value.value.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def has_form(call: LogCall) -> bool:
    if call.event in STATES:
        return True
    starts_with_noun = not re.match(r"(?:an?|the|it|this|that|these|what|who|some|there)\b", call.event)
    return starts_with_noun and " " in call.event and not call.event.endswith(".") and not REFUSED.search(call.event)
