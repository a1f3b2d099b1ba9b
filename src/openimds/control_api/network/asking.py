"""What every endpoint takes: who asks, and the query as it was sent."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Body, Depends, Header, Request

from openimds.control_api import context
from openimds.control_api.network.request_params import Pairs
from openimds.resources.caller import Caller
from openimds.resources.errors import BadRequest, NotSupported


def caller_of(asker: context.Caller) -> Caller:
    """The token's scope, as the store wants it. Agents may do what administrators may."""
    return Caller(project_id=asker.project_id, is_admin=asker.is_service)


def pairs_of(request: Request) -> Pairs:
    """The query's parameters, in order, repetitions and all."""
    return request.query_params.multi_items()


def if_revision_of(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """`If-Match: revision_number=5` → 5: the call counts only while that is the resource's (`revision-if-match`)."""
    if if_match is None:
        return None
    found = re.fullmatch(r"revision_number=([0-9]{1,18})", if_match.strip())
    if found is None:
        raise BadRequest("If-Match", "If-Match: it must be like revision_number=5.")
    return int(found[1])


def no_if_match(request: Request, if_match: Annotated[str | None, Header()] = None) -> None:
    """For calls that cannot be bound to a revision: better refused than done in spite of it."""
    if if_match is not None and request.method not in ("GET", "HEAD"):
        raise NotSupported("openimds takes If-Match for the update and the delete of a resource only.")


Asker = Annotated[Caller, Depends(caller_of)]
Query = Annotated[Pairs, Depends(pairs_of)]
IfRevision = Annotated[int | None, Depends(if_revision_of)]
JsonBody = Annotated[Any, Body()]
