"""What the image service needs of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openimds.control_api.context import RequestContext
from openimds.resources.compute import Requester
from openimds.resources.image import Image, ImageQuery


class Upload(Protocol):
    def write(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...


class Images(Protocol):
    """`store.image.ImageStore` is one."""

    def get(self, image_id: str, asker: Requester) -> Image: ...
    def create(self, fields: Mapping[str, Any], image_id: str | None, asker: Requester) -> Image: ...
    def update(self, image_id: str, change: Callable[[Image], Mapping[str, Any]], asker: Requester) -> Image: ...
    def delete(self, image_id: str, asker: Requester) -> None: ...
    def begin_upload(self, image_id: str, asker: Requester) -> Upload: ...
    def data(self, image_id: str, asker: Requester) -> Path | None: ...
    def list(self, query: ImageQuery) -> Sequence[Image]: ...


@dataclass(frozen=True, slots=True)
class ImageService:
    """What the image service's calls work with; the daemon fills it."""

    images: Images
    public_url: str


def requester(caller: RequestContext) -> Requester:
    """The caller, in the store's words."""
    return Requester(
        user_id=caller.user_id, project_id=caller.project_id, request_id=caller.request_id, is_admin=caller.is_admin
    )
