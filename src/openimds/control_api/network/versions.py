"""Version discovery of the network service. It is public, as Neutron's is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from openimds.control_api.network.attributes import COLLECTIONS, plural


def add_to(routes: APIRouter, public_url: str) -> None:
    """`/network` and `/network/v2.0` themselves. `public_url`: `http://127.0.0.1:5000`, without a slash at its end."""
    root = f"{public_url}/network"

    @routes.get("")
    def versions() -> dict[str, Any]:
        link = {"rel": "self", "href": f"{root}/v2.0/"}
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}

    @routes.get("/v2.0")
    def resources() -> dict[str, Any]:
        shown = [
            {
                "name": kind,
                "collection": plural(kind),
                "links": [{"rel": "self", "href": f"{root}/v2.0/{path}"}],
            }
            for path, kind in COLLECTIONS.items()
        ]
        return {"resources": shown}
