"""The rules and attributes of Glance's API, with Glance's names."""

from __future__ import annotations

from oslo_policy.policy import DocumentedRuleDefault, RuleDefault

from openimds.control_api.image.schema import ImageAttributes
from openimds.control_api.policy.base import ADMIN, ADMIN_OR_MEMBER, ResourceAttributes, model_fields


def _rule(name: str, check: str, description: str, method: str, path: str = "") -> RuleDefault:
    return DocumentedRuleDefault(name, check, description, [{"method": method, "path": f"/image/v2/images{path}"}])


RULES = (
    _rule("add_image", ADMIN_OR_MEMBER, "Create an image. The project is the image's owner.", "POST"),
    _rule("modify_image", ADMIN_OR_MEMBER, "Change an image or its tags.", "PATCH", "/{image_id}"),
    _rule("publicize_image", ADMIN, "Make an image public.", "PATCH", "/{image_id}"),
    _rule("upload_image", ADMIN_OR_MEMBER, "Upload the data of an image.", "PUT", "/{image_id}/file"),
    _rule("delete_image", ADMIN_OR_MEMBER, "Delete an image.", "DELETE", "/{image_id}"),
)

_FIELDS = (*model_fields(ImageAttributes), "visibility: public", "(properties)")

RESOURCES = (
    ResourceAttributes(
        name="image",
        create="add_image",
        update="modify_image",
        on_create=("id", "owner", *_FIELDS),
        on_update=_FIELDS,
        rules={(action, "visibility: public"): "publicize_image" for action in ("add_image", "modify_image")},
    ),
)
