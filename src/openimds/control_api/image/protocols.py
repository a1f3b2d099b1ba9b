"""The store that the image service needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openimds.resources.compute import Requester
from openimds.resources.image import Image, ImageQuery


class Upload(Protocol):
    def expect(self, size: int) -> None: ...
    def write(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...


class Images(Protocol):
    """Images and their data."""

    def get(self, image_id: str, requester: Requester) -> Image: ...
    def create(self, fields: Mapping[str, Any], image_id: str | None, requester: Requester) -> Image: ...
    def update(self, image_id: str, change: Callable[[Image], Mapping[str, Any]], requester: Requester) -> Image: ...
    def delete(self, image_id: str, requester: Requester) -> None: ...
    def begin_upload(self, image_id: str, requester: Requester) -> Upload: ...
    def data(self, image_id: str, requester: Requester) -> Path | None: ...
    def list(self, query: ImageQuery) -> Sequence[Image]: ...


@dataclass(frozen=True, slots=True)
class ImageService:
    """The objects that the image routes use. programs/control_api/wiring.py creates them."""

    images: Images
    public_url: str
