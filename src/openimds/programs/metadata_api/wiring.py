"""Builds the handler of the metadata API from the configuration and the store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from openimds.config import DocumentsConfig, MetadataApiConfig, VendorDataConfig
from openimds.imds.authenticators import AddressAuthenticator, Authenticator, SignatureAuthenticator
from openimds.imds.handler import MetadataHandler
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.instance_loader import BatchLoader
from openimds.imds.invalidation import ChangePoller
from openimds.imds.request_log import RequestLog
from openimds.imds.session_tokens import PreviousHop, TokenSettings
from openimds.imds.vendordata import Target, VendordataTargets, VendordataTimeouts
from openimds.metadata.context import DocumentSettings
from openimds.metadata.imds_options import TokenMode
from openimds.programs.vendordata_file import static_vendor_data
from openimds.runtime.lifecycle import StartupError
from openimds.store.raw.database import Database
from openimds.store.raw.instance_changes import InstanceChanges
from openimds.store.raw.metadata_store import MetadataStore

STATIC = "StaticJSON"
DYNAMIC = "DynamicJSON"

STORE_THREADS = 8


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The settings of the handler. Made and validated before the workers start."""

    settings: DocumentSettings
    secrets: tuple[str, ...] | None
    """The shared secrets. None if clients are identified by their address."""
    tokens: TokenSettings
    vendors: Callable[[], VendordataTargets] | None
    vendor_file: Path | None
    """The file of `settings.static_vendor_data`. None if static vendor data is not configured."""
    strict_hosts: tuple[str, ...] | None = None
    """The allowed values of Host if clients are identified by their address. None if all are allowed."""


def document_settings(config: DocumentsConfig) -> DocumentSettings:
    """Returns the settings of documents, for this API and for metadata agents. Raises StartupError."""
    unknown = sorted(set(config.vendor_data_providers) - {STATIC, DYNAMIC})
    if unknown:
        raise StartupError(
            f"[api] vendordata_providers names {', '.join(unknown)}: only {STATIC} and {DYNAMIC} are supported"
        )
    is_static = STATIC in config.vendor_data_providers
    return DocumentSettings(
        dhcp_domain=config.dhcp_domain,
        static_vendor_data=static_vendor_data(config.vendor_data_file) if is_static else None,
        dynamic_vendor_data=DYNAMIC in config.vendor_data_providers,
        policy=config.policy,
    )


def vendor_file(config: DocumentsConfig) -> Path | None:
    """Returns the file of the static vendor data. None if static vendor data is not configured."""
    return config.vendor_data_file if STATIC in config.vendor_data_providers else None


def plan_service(config: MetadataApiConfig) -> ServiceConfig:
    """Returns the settings of the handler. Raises StartupError."""
    vendor_data = config.vendor_data
    settings = document_settings(config.documents)
    return ServiceConfig(
        settings=settings,
        tokens=_tokens(config),
        secrets=_secrets(config),
        vendors=(lambda: _vendors(vendor_data)) if settings.dynamic_vendor_data else None,
        vendor_file=vendor_file(config.documents),
        strict_hosts=config.strict_hosts,
    )


class WorkerState:
    """The state of one worker. It is kept when a reload of the configuration replaces the handler."""

    def __init__(self, database: Database) -> None:
        self.instances = MetadataStore(database)
        self.threads = ThreadPoolExecutor(STORE_THREADS, "store")
        together = BatchLoader(self.threads, lambda ids: self.instances.instances(ids)[1])
        self.records = InstanceCache(self.threads, instances=together.instance)
        self.freshness = ChangePoller(InstanceChanges(database), self.records.forget)


def build_service(plan: ServiceConfig, memory: WorkerState, request_log: RequestLog | None = None) -> MetadataHandler:
    """Returns a handler for the event loop of a worker."""
    instances, records = memory.instances, memory.records
    authenticator: Authenticator = (
        AddressAuthenticator(instances, records, plan.strict_hosts)
        if plan.secrets is None
        else SignatureAuthenticator(instances, records, plan.secrets)
    )
    return MetadataHandler(
        authenticator=authenticator,
        records=records,
        passwords=instances,
        settings=plan.settings,
        executor=memory.threads,
        request_log=request_log,
        tokens=plan.tokens,
        vendors=plan.vendors() if plan.vendors else None,
    )


def _secrets(config: MetadataApiConfig) -> tuple[str, ...] | None:
    if not config.service_metadata_proxy:
        return None
    if config.shared_secrets:
        return config.shared_secrets
    if not config.allow_empty_shared_secret:
        raise StartupError(
            "[neutron] metadata_proxy_shared_secret is empty: each client of this port could sign for any instance. "
            "Set the same secret here and in metadata_agent.ini, or write allow_empty_shared_secret = true to go "
            "without one"
        )
    return ("",)


def _tokens(config: MetadataApiConfig) -> TokenSettings:
    required = TokenMode.REQUIRED in (config.documents.policy.http_tokens, config.documents.policy.openstack_tokens)
    if required and not config.shared_secrets:
        raise StartupError(
            "[imds] requires session tokens, and they are made from [neutron] metadata_proxy_shared_secret, which is "
            "empty: set it (with service_metadata_proxy = false it is used for nothing else)"
        )
    hop = PreviousHop.AGENT if config.service_metadata_proxy else PreviousHop.CLIENT
    return TokenSettings(secrets=config.shared_secrets, previous_hop=hop)


def _vendors(config: VendorDataConfig) -> VendordataTargets:
    # Imported only if there are targets, because the HTTP client takes 7 MiB per worker.
    from keystoneauth1.session import Session  # noqa: PLC0415

    from openimds.client.session import connect  # noqa: PLC0415
    from openimds.client.vendordata import VendorTimeouts, vendor_post  # noqa: PLC0415

    session = connect(config.dynamic_auth) if config.dynamic_auth else Session(app_name="openimds")
    timeouts = VendorTimeouts(
        connect_seconds=config.dynamic_connect_timeout_seconds, read_seconds=config.dynamic_read_timeout_seconds
    )
    return VendordataTargets(
        [Target(name, url) for name, url in config.dynamic_targets],
        vendor_post(session, timeouts, config.dynamic_ssl_certfile),
        VendordataTimeouts(
            seconds=config.dynamic_connect_timeout_seconds + config.dynamic_read_timeout_seconds,
            failure_is_fatal=config.dynamic_failure_fatal,
        ),
    )
