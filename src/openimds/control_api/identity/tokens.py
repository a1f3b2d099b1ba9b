"""Tokens: sealed values (Fernet) that every replica with the same keys can open, without shared memory."""

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
"""Now, UTC without zone."""

MAX_TOKEN_CHARS = 2048
"""Ours have about 300: nothing longer is worth decrypting."""

MAX_ANCESTORS = 20
"""Tokens are made from tokens this many times in a row at most, because each has the audit ids of all before it."""

BAD_TOKEN = "The request you have made requires authentication: the token is not valid."  # noqa: S105 - a sentence


class TokenSealer:
    """Token ↔ text. The first key seals; all of them open, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._fernet = _fernet(keys)

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """From now on these. Raises ValueError, and changes nothing, when one of them is no Fernet key."""
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
        """Raises Unauthorized for what was not sealed with one of the keys. Says nothing about expiry."""
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
    """Issues and checks tokens; what the whole control API authenticates with."""

    def __init__(self, sealer: TokenSealer, credentials: Credentials, clock: Clock, life: timedelta) -> None:
        self._sealer = sealer
        self._credentials = credentials
        self._clock = clock
        self._life = life

    def issue(
        self, user_id: str, scope: TokenScope, methods: tuple[str, ...], parent: Token | None = None
    ) -> tuple[str, Token]:
        """A new token; one made from another token expires with it. Raises Unauthorized after too many in a row."""
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
        """Raises Unauthorized for a token that is not ours, expired, revoked, or whose user has lost the scope."""
        token = self._sealer.open(text)
        if token.expires_at <= self._clock():
            raise Unauthorized("The token has expired: authenticate again.")
        return token, self._credentials.standing_of(token)

    def context(self, token: str, request_id: str) -> RequestContext:
        """What `Authenticator` asks for."""
        _, standing = self.check(token)
        return RequestContext(
            user_id=standing.user.id,
            user_name=standing.user.name,
            project_id=standing.project.id if standing.project else "",
            roles=standing.role_names,
            system=standing.system,
            request_id=request_id,
            token=token,
        )


def _ancestors(parent: Token | None) -> tuple[str, ...]:
    """The audit ids of the tokens that a new token is made from. The revocation of any of them revokes the new token."""
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
