from __future__ import annotations

import json

import pytest

from openimds.control_api.error_handlers import ErrorResponse, NotAcceptable, error_response, json_response
from openimds.resources import errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadRequest("name", "is missing"), 400),
        (errors.Unauthorized("who?"), 401),
        (errors.Forbidden("no"), 403),
        (errors.NotFound("gone"), 404),
        (NotAcceptable("2.999"), 406),
        (errors.Conflict("taken"), 409),
        (errors.RevisionGone("list again"), 410),
        (errors.PayloadTooLarge("much"), 413),
        (errors.NotSupported("not here"), 501),
        (errors.NotOffered("no records here"), 503),
    ],
)
def test_each_error_has_its_status(error: errors.OpenimdsError, status: int) -> None:
    problem = error_response(error)
    assert problem.status == status
    assert problem.message == error.message


def test_unavailable_store_is_503_without_its_url_or_path() -> None:
    problem = error_response(errors.StoreUnavailable("the store postgresql://u@10.0.0.9/db cannot be used: /var/lib/x"))
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})
    assert "10.0.0.9" not in problem.message
    assert "/var/lib" not in problem.message


def test_quota_error_is_409_for_neutron_and_403_elsewhere() -> None:
    over = errors.QuotaExceeded("too many")
    assert error_response(over, "/network/v2.0/ports").status == 409
    assert error_response(over, "/compute/v2.1/servers").status == 403


def test_error_without_a_status_is_500_and_hides_its_message() -> None:
    problem = error_response(errors.OpenimdsError("select * from secrets"))
    assert problem.status == 500
    assert "secrets" not in problem.message


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v3/users", {"error": {"code": 404, "title": "Not Found", "message": "gone"}}),
        ("/network/v2.0/ports", {"NeutronError": {"type": "PortNotFound", "message": "gone", "detail": ""}}),
        ("/compute/v2.1/servers", {"itemNotFound": {"code": 404, "message": "gone"}}),
        ("/image/v2/images", {"message": "gone", "code": "404 Not Found", "title": "Not Found"}),
        ("/openimds/v1/snapshot", {"error": {"code": 404, "title": "Not Found", "message": "gone"}}),
        ("/computer", {"error": {"code": 404, "title": "Not Found", "message": "gone"}}),
    ],
)
def test_error_has_the_json_of_its_service(path: str, form: dict[str, object]) -> None:
    made = json_response(path, ErrorResponse(404, "gone", "PortNotFound"))
    assert json.loads(bytes(made.body)) == form


def test_status_without_a_name_in_nova_is_a_compute_fault() -> None:
    assert "computeFault" in json.loads(bytes(json_response("/compute/v2.1/servers", ErrorResponse(406, "no")).body))
