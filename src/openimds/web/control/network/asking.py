"""What every endpoint takes: who asks, and the query as it was sent."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Depends, Request

from openimds.resources.caller import Caller
from openimds.web.control import context
from openimds.web.control.network.queries import Pairs


def caller_of(asker: context.Caller) -> Caller:
    """The token's scope, as the store wants it. Agents may do what administrators may."""
    return Caller(project_id=asker.project_id, is_admin=asker.is_service)


def pairs_of(request: Request) -> Pairs:
    """The query's parameters, in order, repetitions and all."""
    return request.query_params.multi_items()


Asker = Annotated[Caller, Depends(caller_of)]
Query = Annotated[Pairs, Depends(pairs_of)]
JsonBody = Annotated[Any, Body()]
