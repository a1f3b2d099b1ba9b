from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from openimds.control_api.identity.tokens import TokenSealer
from openimds.resources.errors import Unauthorized
from openimds.resources.identity import Token, TokenScope

OLD, NEW, OTHER = (Fernet.generate_key() for _ in range(3))
NOW = datetime.fromisoformat("2026-11-21T10:00:00.123456")
TOKEN = Token(
    user_id="u" * 32,
    scope=TokenScope(project_id="p" * 32),
    methods=("password",),
    audit_ids=("a" * 22,),
    issued_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)


def test_decrypted_token_equals_the_original() -> None:
    text = TokenSealer([NEW]).seal(TOKEN)
    assert TokenSealer([NEW]).open(text) == TOKEN
    assert len(text) < 400


def test_older_keys_decrypt_after_a_rotation() -> None:
    text = TokenSealer([OLD]).seal(TOKEN)
    sealer = TokenSealer([NEW, OLD])
    assert sealer.open(text) == TOKEN
    sealer.replace_keys([NEW])
    with pytest.raises(Unauthorized):
        sealer.open(text)
    with pytest.raises(ValueError, match="empty"):
        sealer.replace_keys([])
    assert sealer.open(sealer.seal(TOKEN)) == TOKEN


def test_forged_or_changed_token_is_rejected() -> None:
    text = TokenSealer([NEW]).seal(TOKEN)
    for bad in (TokenSealer([OTHER]).seal(TOKEN), text[:-8] + "AAAAAAA=", "", "ä", "x" * 10_000):
        with pytest.raises(Unauthorized):
            TokenSealer([NEW]).open(bad)


@given(st.text(max_size=500))
def test_arbitrary_text_is_rejected(text: str) -> None:
    with pytest.raises(Unauthorized):
        TokenSealer([NEW]).open(text)
