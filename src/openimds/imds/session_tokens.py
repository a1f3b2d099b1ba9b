"""Session tokens at the service: reads what a request says of them, judges it, and makes new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from openimds.guest_identity.headers import HeaderError, is_privileged, single, was_forwarded, was_privileged
from openimds.guest_identity.session_tokens import NONCE_BYTES, is_good_token, issue_token, parse_ttl
from openimds.http.messages import Request
from openimds.metadata.imds_options import ImdsOptions, TokenMode, effective_options, invalid_properties
from openimds.metadata.outcome import Document, MetadataError
from openimds.metadata.paths import Path
from openimds.metadata.session_policy import (
    TOKEN,
    TTL,
    IssueToken,
    Session,
    TokenState,
    check_session,
    is_user_data_closed,
    token_document,
)
from openimds.resources.instance import Instance

log = structlog.get_logger(__name__)

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """What the deployment says of tokens."""

    secrets: Sequence[str] = ()
    """The current shared secret first. Empty: no tokens can be made, so none are looked at where none is required."""
    is_behind_agent: bool = True
    """False: guests come themselves, and X-Forwarded-For is of their own making."""


class SessionTokens:
    """`admit` is asked before any document is."""

    def __init__(
        self,
        settings: TokenSettings,
        defaults: ImdsOptions,
        *,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`defaults`: of instances whose properties say nothing; `now`: seconds since the epoch."""
        self._settings = settings
        self._defaults = defaults if settings.secrets else _without_secret(defaults)
        self._now = now
        self._random_bytes = random_bytes
        self._told: set[tuple[str, str, str]] = set()

    def admit(self, request: Request, path: Path, instance: Instance) -> Document | None:
        """The answer to a request for a token; None: go on to the document. Raises Refusal (400, 401, 403, 405)."""
        policy = self.policy(instance)
        if instance.metadata:
            self._tell_mistakes(instance.id, instance.metadata)
        try:
            session = self._session(request, instance)
        except HeaderError as error:
            raise MetadataError(400, str(error)) from None
        if is_user_data_closed(path, policy, session.age_seconds):
            log.warning("user data were asked for after their time", instance_id=instance.id)
        wanted = check_session(request.method, path, policy, session)
        return None if wanted is None else self._issue(wanted, instance.id)

    def policy(self, instance: Instance) -> ImdsOptions:
        return effective_options(instance.metadata, self._defaults) if instance.metadata else self._defaults

    def _session(self, request: Request, instance: Instance) -> Session:
        token = single(request.headers, TOKEN)
        presented = TokenState.NOTHING if token is None else self._judge(token, instance.id)
        now = Session(
            presented=presented,
            from_privileged_port=self._is_roots(request),
            age_seconds=None if instance.launched_at is None else self._now() - instance.launched_at,
        )
        if request.method != "PUT":
            return now
        return replace(
            now,
            ttl_seconds=parse_ttl(single(request.headers, TTL)),
            is_forwarded=was_forwarded(request.headers, own_addresses=int(self._settings.is_behind_agent)),
        )

    def _is_roots(self, request: Request) -> bool:
        if self._settings.is_behind_agent:
            return was_privileged(request.headers)
        return is_privileged(request.peer_port)

    def _judge(self, token: str, instance_id: str) -> TokenState:
        good = is_good_token(self._settings.secrets, instance_id, token.strip(" \t"), now=self._now())
        return TokenState.GOOD if good else TokenState.BAD

    def _issue(self, wanted: IssueToken, instance_id: str) -> Document:
        if not self._settings.secrets:
            raise MetadataError(503, "No tokens can be given: the metadata API has no shared secret.")
        token = issue_token(
            self._settings.secrets[0],
            instance_id,
            expires_at=int(self._now()) + wanted.ttl_seconds,
            nonce=self._random_bytes(NONCE_BYTES),
        )
        return token_document(token, wanted.ttl_seconds, wanted.hop_limit)

    def _tell_mistakes(self, instance_id: str, metadata: Mapping[str, str]) -> None:
        for name, sentence in invalid_properties(metadata):
            mistake = (instance_id, name, metadata[name])
            if mistake in self._told:
                continue
            if len(self._told) >= _MAX_REMEMBERED:
                self._told.clear()
            self._told.add(mistake)
            log.warning(
                "a server property cannot be read: the deployment's default is taken",
                instance_id=instance_id,
                property=name,
                reason=sentence,
            )


def _without_secret(defaults: ImdsOptions) -> ImdsOptions:
    optional = defaults.http_tokens is TokenMode.OPTIONAL
    return replace(defaults, http_tokens=TokenMode.OFF) if optional else defaults
