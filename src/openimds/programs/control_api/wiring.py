"""The wiring of the control API: stores, token keys, services, routers, and the settings for rendering documents.

The settings are read from the same nova.conf as those of the metadata API, and reloaded in the same way.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import prometheus_client
import structlog
from cryptography.fernet import Fernet
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from openimds import config as configuration
from openimds.config import ConfigError, ControlApiConfig, DocumentsConfig
from openimds.control_api import discovery
from openimds.control_api.app import (
    ControlApiParts,
    build_app,
    compute_router,
    identity_router,
    image_router,
    network_router,
)
from openimds.control_api.compute.protocols import ComputeService
from openimds.control_api.identity.catalog import Catalog
from openimds.control_api.identity.logins import LoginService
from openimds.control_api.identity.protocols import IdentityService
from openimds.control_api.identity.tokens import TokenSealer, TokenService
from openimds.control_api.image.protocols import ImageService
from openimds.control_api.policy.enforcer import Policy
from openimds.control_api.policy.files import PolicyError, files_in
from openimds.control_api.watch import routes
from openimds.control_api.watch.long_poll import ChangeNotifier
from openimds.metadata.context import DocumentSettings
from openimds.programs.metadata_api.wiring import document_settings, vendor_file
from openimds.programs.vendordata_file import CHECK_SECONDS, StaticVendorData
from openimds.resources.errors import NotFound
from openimds.runtime.lifecycle import StartupError
from openimds.store.compute import ComputeStore
from openimds.store.engine import Store, utc_now
from openimds.store.identity import IdentityStore
from openimds.store.image import MIB, UNLIMITED, ImageLimits, ImageStore
from openimds.store.importer.importer import InstanceStore
from openimds.store.network.network_store import NetworkStore
from openimds.store.passwords import ROUNDS
from openimds.store.raw.instance_changes import InstanceChanges
from openimds.store.watch_store import WatchStore

log = structlog.get_logger(__name__)


class ReloadingDocumentSettings:
    """The settings that metadata agents render documents with, reloaded when the vendor data file changes.

    The object is thread-safe. If the settings cannot be read at the start, agents forward requests to the metadata API.
    Later errors keep the previous settings.
    """

    def __init__(self, config: DocumentsConfig) -> None:
        self._lock = threading.Lock()
        self._next_check = 0.0
        self._config = config
        self._settings: DocumentSettings | None = None
        self._file: StaticVendorData | None = None
        self.replace_config(config)

    def current(self) -> DocumentSettings:
        """Returns the same object until the settings change. Raises NotFound if there are none."""
        with self._lock:
            if time.monotonic() >= self._next_check:
                self._next_check = time.monotonic() + CHECK_SECONDS
                self._check_file()
            if self._settings is None:
                raise NotFound("The settings for rendering documents cannot be read: see the log.")
            return self._settings

    def replace_config(self, config: DocumentsConfig) -> None:
        """Applies a reloaded configuration."""
        with self._lock:
            try:
                self._read(config)
            except StartupError as error:
                log.error("document settings invalid: metadata agents get none", reason=str(error))  # noqa: TRY400

    def _read(self, config: DocumentsConfig) -> None:
        if self._settings is None:
            self._config = config
        settings = document_settings(config)
        path = vendor_file(config)
        content = settings.static_vendor_data
        self._config, self._settings = config, settings
        self._file = StaticVendorData(path, content) if path is not None and content is not None else None

    def _check_file(self) -> None:
        if self._settings is None:
            with suppress(StartupError):
                self._read(self._config)
                log.info("document settings valid again")
        elif self._file is not None and (content := self._file.read_change()) is not None:
            self._settings = replace(self._settings, static_vendor_data=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlApi:
    app: FastAPI
    public_url: str
    reload: Callable[[], None]
    """Reloads the token keys, the rules of the policy, and the settings for rendering documents."""
    prune_revoked: Callable[[datetime], int]
    """Takes the time (UTC without zone) and returns the number of pruned revocations."""
    end_long_polls: Callable[[], None]
    """Ends all long polls now and each later one immediately, before the stop. Any thread may call this function."""


def build_parts(
    config: ControlApiConfig,
    store: Store,
    registry: CollectorRegistry = prometheus_client.REGISTRY,
    password_rounds: int = ROUNDS,
) -> ControlApi:
    """Builds the API. Raises StartupError if the token keys cannot be read or created, or the policy is invalid."""
    policy = _open_policy(config)
    identity_store = IdentityStore(store, password_rounds)
    token_sealer = _open_token_sealer(config.token_keys_file)
    lifetime = timedelta(seconds=config.token_expiration_seconds)
    tokens = TokenService(token_sealer, identity_store.credentials, utc_now, lifetime)
    url = config.public_url
    identity_service = IdentityService(
        users=identity_store.users,
        projects=identity_store.projects,
        roles=identity_store.roles,
        assignments=identity_store.assignments,
        credentials=identity_store.credentials,
        tokens=tokens,
        logins=LoginService(identity_store.credentials),
        catalog=Catalog(url, config.region),
    )
    agent_down_after = timedelta(seconds=config.agent_down_seconds)
    compute_service = ComputeService(ComputeStore(store, config.agent_down_seconds), url)
    image_service = ImageService(ImageStore(store, config.images_dir, _image_limits(config)), url)
    watch_store = WatchStore(store)
    notifier = ChangeNotifier(watch_store)
    settings = ReloadingDocumentSettings(config.documents)
    instances = routes.InstanceRecordService(
        InstanceStore(store), InstanceChanges(store.database), settings.current, notifier
    )
    app = build_app(
        ControlApiParts(
            authenticator=tokens,
            policy=policy,
            routers=(
                discovery.router(url),
                identity_router(identity_service),
                network_router(NetworkStore(store, agent_down_after=agent_down_after)),
                compute_router(compute_service),
                image_router(image_service),
                routes.router(watch_store, notifier),
                routes.instances_router(instances),
            ),
            healthy=store.revision,
            registry=registry,
        )
    )

    def reload() -> None:
        token_sealer.replace_keys(read_token_keys(config.token_keys_file))
        log.info("token keys reloaded", file=str(config.token_keys_file))
        policy.reload()
        try:
            settings.replace_config(configuration.load_control_api(config.config_files).documents)
        except ConfigError as error:
            log.warning("document settings reload failed", error=str(error))

    return ControlApi(
        app=app,
        public_url=url,
        reload=reload,
        prune_revoked=identity_store.credentials.prune_revoked,
        end_long_polls=notifier.close,
    )


def _image_limits(config: ControlApiConfig) -> ImageLimits:
    total = config.image_size_total_mib
    return ImageLimits(
        image_bytes=config.image_size_cap_bytes,
        images_of_project=config.image_count_total,
        bytes_of_project=UNLIMITED if total == UNLIMITED else total * MIB,
        reserved_bytes=config.image_disk_reserve_mib * MIB,
    )


def _open_policy(config: ControlApiConfig) -> Policy:
    files = config.policy
    try:
        return Policy(partial(files_in, files.files, files.folders, required=files.required))
    except PolicyError as error:
        raise StartupError("\n".join(error.problems)) from error


def read_token_keys(path: Path) -> list[bytes]:
    """Reads one Fernet key per line, the newest first. Empty lines and # comments are skipped. Raises OSError."""
    lines = [line.strip() for line in path.read_bytes().splitlines()]
    return [line for line in lines if line and not line.startswith(b"#")]


def _open_token_sealer(path: Path) -> TokenSealer:
    try:
        _create_token_keys(path)
        return TokenSealer(read_token_keys(path))
    except OSError as error:
        raise StartupError(f"the token keys file {path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(
            f"the token keys file {path} must hold Fernet keys (32 bytes in URL-safe base64), one per line"
        ) from error


def _create_token_keys(path: Path) -> None:
    """Creates the file with one key if it is missing. All replicas of the API need the same file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(Fernet.generate_key() + b"\n")
    log.info("token key file created", file=str(path))
