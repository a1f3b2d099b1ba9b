"""Fernet tokens. Every replica with the same keys can read them, without shared state."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from openimds.control_api.context import RequestContext
from openimds.control_api.identity.protocols import Credentials
from openimds.resources.errors import Unauthorized
from openimds.resources.identity import AccessInfo, Token, TokenScope

Clock = Callable[[], datetime]
"""Returns the current time, UTC without a zone."""

MAX_TOKEN_CHARS = 2048
"""Longer tokens are rejected without decryption. A token of openimds has about 300 characters."""

MAX_ANCESTORS = 20
"""Maximum length of a chain of tokens that are issued from each other. Each contains the audit ids of all before it."""

BAD_TOKEN = "The request you have made requires authentication: the token is not valid."  # noqa: S105 - a sentence


class TokenSealer:
    """Encrypts and decrypts tokens. The first key encrypts, and all keys decrypt, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._fernet = _fernet(keys)

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Replaces the keys. Raises ValueError and keeps the old keys if one is not a Fernet key."""
        self._fernet = _fernet(keys)

    def seal(self, token: Token) -> str:
        fields = [
            token.user_id,
            token.scope.project_id,
            token.scope.system,
            token.methods,
            token.audit_ids,
            _micros(token.issued_at),
            _micros(token.expires_at),
        ]
        return self._fernet.encrypt(json.dumps(fields, separators=(",", ":")).encode()).decode()

    def open(self, text: str) -> Token:
        """Decrypts a token without checking its expiry. Raises Unauthorized if none of the keys decrypts it."""
        if len(text) > MAX_TOKEN_CHARS:
            raise Unauthorized(BAD_TOKEN)
        try:
            fields: list[Any] = json.loads(self._fernet.decrypt(text.encode()))
        except (InvalidToken, ValueError) as error:
            raise Unauthorized(BAD_TOKEN) from error
        user_id, project_id, system, methods, audit_ids, issued, expires = fields
        return Token(
            user_id=user_id,
            scope=TokenScope(project_id=project_id, system=system),
            methods=tuple(methods),
            audit_ids=tuple(audit_ids),
            issued_at=_moment(issued),
            expires_at=_moment(expires),
        )


class TokenService:
    """Issues and verifies tokens. It is the TokenAuthenticator of the control API."""

    def __init__(self, sealer: TokenSealer, credentials: Credentials, clock: Clock, life: timedelta) -> None:
        self._sealer = sealer
        self._credentials = credentials
        self._clock = clock
        self._life = life

    def issue(
        self, user_id: str, scope: TokenScope, methods: tuple[str, ...], parent: Token | None = None
    ) -> tuple[str, Token]:
        """Issues a token. A token issued from a parent expires with it. Raises Unauthorized beyond MAX_ANCESTORS."""
        now = self._clock()
        token = Token(
            user_id=user_id,
            scope=scope,
            methods=methods,
            audit_ids=(secrets.token_urlsafe(16), *_ancestors(parent)),
            issued_at=now,
            expires_at=parent.expires_at if parent else now + self._life,
        )
        return self._sealer.seal(token), token

    def check(self, text: str) -> tuple[Token, AccessInfo]:
        """Verifies a token. Raises Unauthorized if it is invalid, expired or revoked, or its user has no role in the scope."""
        token = self._sealer.open(text)
        if token.expires_at <= self._clock():
            raise Unauthorized("The token has expired: authenticate again.")
        return token, self._credentials.token_access_info(token)

    def context(self, token: str, request_id: str) -> RequestContext:
        """Implements TokenAuthenticator."""
        _, access_info = self.check(token)
        return RequestContext(
            user_id=access_info.user.id,
            user_name=access_info.user.name,
            project_id=access_info.project.id if access_info.project else "",
            roles=access_info.role_names,
            system=access_info.system,
            request_id=request_id,
            token=token,
        )


def _ancestors(parent: Token | None) -> tuple[str, ...]:
    """The audit ids of the tokens that a new token is issued from. Revoking any of them revokes the new token."""
    if parent is None:
        return ()
    if len(parent.audit_ids) > MAX_ANCESTORS:
        raise Unauthorized("The token was made from too many other tokens in a row: authenticate with a password.")
    return parent.audit_ids


def _fernet(keys: Sequence[bytes]) -> MultiFernet:
    if not keys:
        raise ValueError("no token key: the token keys file is empty")
    return MultiFernet([Fernet(key) for key in keys])


def _micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=micros)  # noqa: DTZ001 - UTC without zone, as the store has it
