"""Session tokens of the metadata service: checks the token of a request, and issues new tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import structlog

from openimds.guest_identity.headers import (
    HeaderError,
    drops_token_headers,
    is_privileged,
    single,
    was_forwarded,
    was_privileged,
)
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

_MAX_LOGGED_MISTAKES = 10_000


class PreviousHop(Enum):
    """The program that sends requests to this service."""

    CLIENT = "client"
    """The instance itself. Its X-Forwarded-For and its request ID are not trusted."""
    PROXY = "proxy"
    """A namespace proxy in front of the metadata agent. It sets X-Forwarded-For and the request ID."""
    AGENT = "agent"
    """The metadata agent, in front of the metadata API. It signs requests and applies the hop limit of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """The token settings of a deployment."""

    secrets: Sequence[str] = ()
    """The current shared secret first. Without a secret no tokens are issued, and optional tokens are ignored."""
    previous_hop: PreviousHop = PreviousHop.AGENT

    @property
    def is_direct(self) -> bool:
        """Returns whether clients connect to this service directly."""
        return self.previous_hop is PreviousHop.CLIENT


class SessionTokens:
    """Admits or rejects a request before its document is read."""

    def __init__(
        self,
        settings: TokenSettings,
        defaults: ImdsOptions,
        *,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`defaults`: the options of instances without properties. `now` returns seconds since the epoch."""
        self._settings = settings
        self._defaults = defaults if settings.secrets else _without_secret(defaults)
        self._is_direct = settings.is_direct
        self._is_behind_agent = settings.previous_hop is PreviousHop.AGENT
        self._now = now
        self._random_bytes = random_bytes
        self._logged_mistakes: set[tuple[str, str, str]] = set()
        self._is_dropping_logged = False

    def admit(
        self, request: Request, path: Path, instance: Instance, policy: ImdsOptions | None = None
    ) -> Document | None:
        """Returns a new token if the request is for one, else None. Raises MetadataError (400, 401, 403, 404, 405)."""
        policy = policy or self.policy(instance)
        if instance.metadata:
            self._log_mistakes(instance.id, instance.metadata)
        try:
            session = self._session(request, instance, policy)
        except HeaderError as error:
            raise MetadataError(400, str(error)) from None
        if session.is_ttl_dropped and policy.http_tokens is TokenMode.REQUIRED and not self._is_dropping_logged:
            self._is_dropping_logged = True
            log.warning("required session tokens dropped by the metadata agent", instance_id=instance.id)
        if is_user_data_closed(path, policy, session.age_seconds):
            log.warning("user data requested after their time", instance_id=instance.id)
        wanted = check_session(request.method, path, policy, session)
        return None if wanted is None else self._issue(wanted, instance.id)

    def policy(self, instance: Instance) -> ImdsOptions:
        return effective_options(instance.metadata, self._defaults) if instance.metadata else self._defaults

    def _session(self, request: Request, instance: Instance, policy: ImdsOptions) -> Session:
        token = single(request.headers, TOKEN)
        presented = TokenState.NOTHING if token is None else self._token_state(token, instance.id)
        now = Session(
            presented=presented,
            from_privileged_port=policy.root_only and self._is_privileged(request),
            age_seconds=None if instance.launched_at is None else self._now() - instance.launched_at,
        )
        if request.method != "PUT":
            return now
        ttl = single(request.headers, TTL)
        return replace(
            now,
            ttl_seconds=parse_ttl(ttl),
            is_ttl_dropped=ttl is None and self._is_behind_agent and drops_token_headers(request.headers),
            is_forwarded=was_forwarded(request.headers, own_addresses=int(not self._is_direct)),
        )

    def _is_privileged(self, request: Request) -> bool:
        return is_privileged(request.peer_port) if self._is_direct else was_privileged(request.headers)

    def _token_state(self, token: str, instance_id: str) -> TokenState:
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

    def _log_mistakes(self, instance_id: str, metadata: Mapping[str, str]) -> None:
        for name, sentence in invalid_properties(metadata):
            mistake = (instance_id, name, metadata[name])
            if mistake in self._logged_mistakes:
                continue
            if len(self._logged_mistakes) >= _MAX_LOGGED_MISTAKES:
                self._logged_mistakes.clear()
            self._logged_mistakes.add(mistake)
            log.warning(
                "server property invalid: the deployment's default applies",
                instance_id=instance_id,
                property=name,
                reason=sentence,
            )


def _without_secret(defaults: ImdsOptions) -> ImdsOptions:
    optional = defaults.http_tokens is TokenMode.OPTIONAL
    return replace(defaults, http_tokens=TokenMode.OFF) if optional else defaults
