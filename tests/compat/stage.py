"""The metadata API with the configuration of the recorded nova."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.databases import migrated_store

from openimds.imds.authenticators import AddressAuthenticator, Authenticator, SignatureAuthenticator
from openimds.imds.handler import MetadataHandler
from openimds.imds.instance_cache import InstanceCache
from openimds.imds.session_tokens import PreviousHop, TokenSettings
from openimds.imds.vendordata import Target, VendordataTargets
from openimds.metadata.context import DocumentSettings
from openimds.resources.instance import ChangeSet, Instance, VendordataResponse
from openimds.store.engine import Store
from openimds.store.importer.importer import InstanceStore
from openimds.store.raw.metadata_store import PortIdentity

CONFIGS = ("cache", "nocache", "dynvd", "direct")
VENDOR_DATA = {"cloud": "peer-cloud", "n": 1}


def echo(_url: str, question: Mapping[str, Any]) -> VendordataResponse:
    """The dynamic vendor data of the recorded nova."""
    return VendordataResponse({"service": "testsvc", "you_sent": dict(question)})


@dataclass
class MainOnLoopback:
    """A store that finds the main instance for loopback addresses, as the recorded nova's Neutron did."""

    store: InstanceStore
    main_id: str

    def instance(self, instance_id: str) -> Instance | None:
        return self.store.instance(instance_id)

    def instance_ids_by_address(self, address: str) -> tuple[str, ...]:
        return (self.main_id,) if address in ("127.0.0.1", "::1") else self.store.instance_ids_by_address(address)

    def ports_by_provider(self, provider_id: str, address: str) -> tuple[PortIdentity, ...] | None:
        return self.store.ports_by_provider(provider_id, address)


@dataclass
class Stage:
    """A database with the instances, and the handlers on it."""

    folder: Path
    document: dict[str, Any]
    store: Store = field(init=False)
    instances: InstanceStore = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)
    records: InstanceCache = field(init=False)

    def __post_init__(self) -> None:
        self.store = migrated_store(self.folder)
        self.instances = InstanceStore(self.store)
        self.threads = ThreadPoolExecutor(4)
        self.records = InstanceCache(self.threads)
        self.reset()

    def reset(self) -> None:
        """Imports the instances again, without passwords."""
        self.instances.import_instances(self.document)
        self.records.forget(ChangeSet(revision=0, everything=True))

    def service(self, config: str) -> MetadataHandler:
        """A handler for the running event loop."""
        self.records = records = InstanceCache(self.threads)
        return MetadataHandler(
            authenticator=self._authenticator(config, records),
            records=records,
            passwords=self.instances,
            settings=DocumentSettings(static_vendor_data=VENDOR_DATA, dynamic_vendor_data=config == "dynvd"),
            executor=self.threads,
            vendors=VendordataTargets([Target("testsvc", "http://testsvc")], echo),
            tokens=TokenSettings(
                secrets=[self.document.get("metadata_proxy_shared_secret") or "direct"],
                previous_hop=PreviousHop.CLIENT if config == "direct" else PreviousHop.AGENT,
            ),
        )

    def _main_id(self) -> str:
        """The id of the instance marked `main`, or of the first instance."""
        entries = self.document["instances"]
        main = next((entry for entry in entries if entry.get("main")), entries[0] if entries else {})
        return str(main.get("uuid") or main.get("id") or "")

    def close(self) -> None:
        self.threads.shutdown()
        self.store.close()

    def _authenticator(self, config: str, records: InstanceCache) -> Authenticator:
        if config == "direct":
            return AddressAuthenticator(MainOnLoopback(self.instances, self._main_id()), records)
        return SignatureAuthenticator(self.instances, records, [self.document["metadata_proxy_shared_secret"]])
