"""The caller of a request, and the rights of its role."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.datastructures import URL

from openimds.control_api.context import RequestContext, current_context
from openimds.control_api.policy.enforcer import default_policy
from openimds.resources.errors import Forbidden


class HostUrlRequest(Request):
    """A request with the URL that a Starlette without a check of the header makes of `Host: x/v3`."""

    @property
    def url(self) -> URL:
        return URL(f"http://x/v3{self.scope['path']}")


class Readers:
    """An authenticator that accepts each token as one of a reader."""

    def context(self, token: str, request_id: str) -> RequestContext:
        return RequestContext(user_id=token, project_id="p1", roles=frozenset({"reader"}), request_id=request_id)


def request(path: str, kind: type[Request] = Request) -> Request:
    app = FastAPI()
    app.state.authenticator = Readers()
    app.state.policy = default_policy()
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [(b"x-auth-token", b"rita")],
        "server": ("127.0.0.1", 5000), "app": app,
    }  # fmt: skip
    return kind(scope)


@pytest.mark.parametrize("path", ["/v3", "/v3/auth/tokens"])
def test_reader_can_use_the_identity_api(path: str) -> None:
    assert current_context(request(path)).user_id == "rita"


@pytest.mark.parametrize("path", ["/network/v2.0/networks", "/v3x", "/v30/users"])
def test_reader_cannot_change_other_services(path: str) -> None:
    with pytest.raises(Forbidden):
        current_context(request(path))


def test_host_header_does_not_make_a_path_one_of_identity() -> None:
    with pytest.raises(Forbidden):
        current_context(request("/network/v2.0/networks", HostUrlRequest))
