"""The catalog: which services there are, and where."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

SERVICES = (
    ("identity", "keystone", "/v3"),
    ("network", "neutron", "/network"),
    ("compute", "nova", "/compute/v2.1"),
    ("image", "glance", "/image"),
    ("instance-metadata", "openimds", "/openimds/v1"),
)
"""Type, name, path on the listener."""

INTERFACES = ("public", "internal", "admin")

_IDS = uuid.UUID("6f1c0b9e-3a5e-4f0e-9d0c-1f7f7c0a6a10")
"""Ids of services and endpoints are made from their names: the same on every replica, and nothing to store."""


@dataclass(frozen=True, slots=True)
class Catalog:
    public_url: str
    """`http://controller:5000`, without a slash at the end."""
    region: str

    def entries(self) -> list[dict[str, Any]]:
        """As a token carries it."""
        return [
            {"id": _id(kind), "type": kind, "name": name, "endpoints": [self._brief(kind, path, i) for i in INTERFACES]}
            for kind, name, path in SERVICES
        ]

    def services(self) -> list[dict[str, Any]]:
        return [
            {
                "id": _id(kind),
                "type": kind,
                "name": name,
                "enabled": True,
                "description": "",
                "links": {"self": f"{self.public_url}/v3/services/{_id(kind)}"},
            }
            for kind, name, _ in SERVICES
        ]

    def endpoints(self) -> list[dict[str, Any]]:
        return [
            {
                **self._brief(kind, path, interface),
                "service_id": _id(kind),
                "enabled": True,
                "links": {"self": f"{self.public_url}/v3/endpoints/{_id(kind + interface)}"},
            }
            for kind, _, path in SERVICES
            for interface in INTERFACES
        ]

    def regions(self) -> list[dict[str, Any]]:
        link = {"self": f"{self.public_url}/v3/regions/{self.region}"}
        return [{"id": self.region, "description": "", "parent_region_id": None, "links": link}]

    def _brief(self, kind: str, path: str, interface: str) -> dict[str, Any]:
        return {
            "id": _id(kind + interface),
            "interface": interface,
            "region": self.region,
            "region_id": self.region,
            "url": self.public_url + path,
        }


def _id(name: str) -> str:
    return uuid.uuid5(_IDS, name).hex
