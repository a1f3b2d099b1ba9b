from __future__ import annotations

import pytest

from openimds.metadata.outcome import TEXT, Document, etag_of, not_modified_or, strong_etag, weak_etag, with_etag

DOCUMENT = with_etag(Document(200, TEXT, b"vm.novalocal"))
ETAG = etag_of(DOCUMENT) or ""


def test_etag_depends_on_the_bytes() -> None:
    assert ETAG == strong_etag(b"vm.novalocal")[1] != strong_etag(b"vm.novaloca")[1]
    assert ETAG.startswith('"')
    assert len(ETAG) == 34


def test_only_documents_have_an_etag() -> None:
    assert etag_of(with_etag(Document(404, TEXT, b"x"))) is None
    assert with_etag(DOCUMENT) is DOCUMENT


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("", 200), (None, 200), (ETAG, 304), (f"W/{ETAG}", 304), ("*", 304), (f' "a" ,{ETAG}', 304),
        (f'"a",W/{ETAG}, "b"', 304), ('"a"', 200), (ETAG.strip('"'), 200), (ETAG[:-1], 200), ("garbage, *", 200),
    ],
)  # fmt: skip
def test_if_none_match_with_the_documents_etag_is_304(sent: str | None, status: int) -> None:
    answer = not_modified_or(DOCUMENT, sent)
    assert answer.status == status
    assert answer.body == (b"" if status == 304 else DOCUMENT.body)
    assert etag_of(answer) == ETAG


def test_weak_etag_matches_its_strong_form() -> None:
    weak = Document(200, TEXT, b"seed 1", (weak_etag(b"stable"),))
    assert etag_of(with_etag(weak)) == weak_etag(b"stable")[1]
    assert not_modified_or(weak, weak_etag(b"stable")[1]).status == 304
    assert not_modified_or(weak, strong_etag(b"stable")[1]).status == 304
    assert not_modified_or(Document(404, TEXT, b""), "*").status == 404
