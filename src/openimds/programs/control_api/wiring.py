"""The settings that metadata agents render documents with, as the control API tells them: from the same nova.conf, and
followed like the metadata API follows them.

The control API's parts put together: stores, token keys, services, the application.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import prometheus_client
import structlog
from cryptography.fernet import Fernet
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from openimds import config as configuration
from openimds.config import ConfigError, ControlApiConfig, DocumentsConfig
from openimds.control_api import compute, identity, image, network
from openimds.control_api.app import Service, Services, build_app
from openimds.control_api.watch import routes
from openimds.metadata.context import DocumentSettings
from openimds.programs.metadata_api.wiring import document_settings, vendor_file
from openimds.programs.vendordata_file import CHECK_SECONDS, StaticVendorData
from openimds.resources.errors import NotFound
from openimds.runtime.lifecycle import StartupError
from openimds.store.compute import ComputeStore
from openimds.store.engine import Store, utc_now
from openimds.store.identity import IdentityStore
from openimds.store.image import ImageStore
from openimds.store.importer.importer import InstanceStore
from openimds.store.network.network_store import NetworkStore
from openimds.store.passwords import ROUNDS
from openimds.store.raw.instance_changes import InstanceChanges
from openimds.store.watch_store import WatchStore

log = structlog.get_logger(__name__)


class ReloadingDocumentSettings:
    """Threads may share it. Settings that cannot be read are told to nobody, and agents ask the metadata API; what they
    were before stays as long as it can.
    """

    def __init__(self, config: DocumentsConfig) -> None:
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._config = config
        self._settings: DocumentSettings | None = None
        self._file: StaticVendorData | None = None
        self.take_over(config)

    def current(self) -> DocumentSettings:
        """The same object until something changes. Raises NotFound."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + CHECK_SECONDS
                self._look()
            if self._settings is None:
                raise NotFound("The settings that documents are rendered with cannot be read here: see the log.")
            return self._settings

    def take_over(self, config: DocumentsConfig) -> None:
        """As it was read just now."""
        with self._lock:
            try:
                self._read(config)
            except StartupError as error:
                log.error("metadata agents are not told how to render documents", reason=str(error))  # noqa: TRY400

    def _read(self, config: DocumentsConfig) -> None:
        if self._settings is None:
            self._config = config
        settings = document_settings(config)
        path = vendor_file(config)
        content = settings.static_vendor_data
        self._config, self._settings = config, settings
        self._file = StaticVendorData(path, content) if path is not None and content is not None else None

    def _look(self) -> None:
        if self._settings is None:
            with suppress(StartupError):
                self._read(self._config)
                log.info("metadata agents are told how to render documents")
        elif self._file is not None and (content := self._file.look()) is not None:
            self._settings = replace(self._settings, static_vendor_data=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApi:
    app: FastAPI
    public_url: str
    read_again: Callable[[], None]
    """The token keys, and the settings that documents are rendered with."""
    prune_revoked: Callable[[datetime], int]
    """Takes the time (UTC without zone), returns how many were forgotten."""
    end_long_polls: Callable[[], None]
    """Answer all of them now, and every further one at once: the program is about to end. On any thread."""


def build_parts(
    config: ControlApiConfig,
    store: Store,
    registry: CollectorRegistry = prometheus_client.REGISTRY,
    password_rounds: int = ROUNDS,
) -> ControlApi:
    """Raises CannotStartError when the token keys cannot be read or made."""
    identities = IdentityStore(store, password_rounds)
    sealer = _sealer(config.token_keys_file)
    life = timedelta(seconds=config.token_expiration_seconds)
    tokens = identity.TokenService(sealer, identities.credentials, utc_now, life)
    url = config.public_url
    identity_service = identity.IdentityService(
        users=identities.users,
        projects=identities.projects,
        roles=identities.roles,
        assignments=identities.assignments,
        credentials=identities.credentials,
        tokens=tokens,
        logins=identity.LoginService(identities.credentials),
        catalog=identity.Catalog(url, config.region),
    )
    agent_down_after = timedelta(seconds=config.agent_down_seconds)
    compute_service = compute.ComputeService(ComputeStore(store, config.agent_down_seconds), url)
    image_service = image.ImageService(ImageStore(store, config.images_dir), url)
    watching = WatchStore(store)
    bell = routes.ChangeNotifier(watching)
    settings = ReloadingDocumentSettings(config.documents)
    instances = routes.InstanceRecordService(
        InstanceStore(store), InstanceChanges(store.database), settings.current, bell
    )
    app = build_app(
        Services(
            authenticator=tokens,
            routers=(
                Service("", identity.router(identity_service)),
                Service("/network", network.router(NetworkStore(store, agent_down_after=agent_down_after), url)),
                Service("", compute.router(compute_service)),
                Service("", image.router(image_service)),
                Service("/openimds/v1", routes.router(watching, bell)),
                Service("/openimds/v1", routes.instances_router(instances)),
            ),
            healthy=store.revision,
            registry=registry,
        )
    )

    def read_again() -> None:
        sealer.replace_keys(read_token_keys(config.token_keys_file))
        log.info("token keys read again", file=str(config.token_keys_file))
        try:
            settings.take_over(configuration.load_control_api(config.config_files).documents)
        except ConfigError as error:
            log.warning("what metadata agents render documents with was not read again", error=str(error))

    return ControlApi(
        app=app,
        public_url=url,
        read_again=read_again,
        prune_revoked=identities.credentials.prune_revoked,
        end_long_polls=bell.close,
    )


def read_token_keys(path: Path) -> list[bytes]:
    """One Fernet key a line, the newest first; empty lines and # comments are passed over. Raises OSError."""
    lines = [line.strip() for line in path.read_bytes().splitlines()]
    return [line for line in lines if line and not line.startswith(b"#")]


def _sealer(path: Path) -> identity.TokenSealer:
    try:
        _make_token_keys(path)
        return identity.TokenSealer(read_token_keys(path))
    except OSError as error:
        raise StartupError(f"the token keys file {path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(
            f"the token keys file {path} must hold Fernet keys (32 bytes in URL-safe base64), one a line"
        ) from error


def _make_token_keys(path: Path) -> None:
    """A first key, where there is no file yet. With several replicas, give all of them the same file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(Fernet.generate_key() + b"\n")
    log.info("a first token key was made", file=str(path))
