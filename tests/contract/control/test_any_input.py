"""No input makes the control API fail, and each request costs a bounded number of SQL statements.

Requests are generated from the OpenAPI document: valid values by the schemas, with hostile values in their places.
OPENIMDS_INPUT_EXAMPLES sets the number of requests (default 200), which then are different in each run.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.contract.control.stage import Cloud, ComputeAgent, Session

EXAMPLES = int(os.environ.get("OPENIMDS_INPUT_EXAMPLES", "0"))
MAX_STATEMENTS = 2_000
MAX_SQL_CHARS = 500_000
METHODS = ("get", "post", "put", "patch", "delete", "head")
RAW_NUMBERS = {"@exponent@": "1e400", "@digits@": "9" * 5000, "@long@": "9" * 30, "@small@": "-1e-999"}
NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**31 - 1, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 0.5, 1e308])
TEXTS = st.sampled_from(
    ["", " ", "x", "a,b", "None", "null", "true", "0", "-0", "1e400", "NaN", "\uff11\uff12", "1_000", "9" * 30, "9" * 5000, "x" * 256,
     "é" * 300, "x" * 70_000, "a\nb", "%", "..", "../../x", "'; --", "in:a,b", "in:", "(a+)+$", "(", "*", "[", "169.254.169.254",
     "0.0.0.0/0", "::/0", "fe80::1%eth0", "1.2.3.4", "10.0.0.0/33", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01",
     "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-01", "\ud800", "\x00", "\U0001f98a", ",".join("x" * 3000),
     ",".join(map(str, range(3000))), "id", "name", "asc", "default", "None:None", "@exponent@", "@digits@", "@long@", "@small@"]
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from([float("nan"), float("inf")]), TEXTS)
HOSTILE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "name", "x" * 300, "", "ip_address", "subnet_id"]), inner, max_size=3),
        SCALARS.map(lambda value: [value if not isinstance(value, str) else value[:300]] * 1200),
    ),
    max_leaves=4,
)
RAW_BODIES = st.sampled_from(
    [b"", b"{", b"null", b"[]", b"0", b'"x"', b"[" * 100_000, b'{"a":' * 1000, b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"[1," * 500,
     b'{"a": 1, "a": {}}', b"[" + b"0," * 60_000 + b"0]", "{}".encode("utf-16"), b"\x1f\x8b\x08\x00"]
)  # fmt: skip
CONTENT_TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-16", "text/plain", "", "application/x-www-form-urlencoded",
     "multipart/form-data", "multipart/form-data; boundary=x", "application/octet-stream", ";;;", "application/problem+json",
     "application/openstack-images-v2.1-json-patch"]
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["if-match", "openstack-api-version", "x-subject-token", "accept", "range", "if-none-match", "host"]),
    st.sampled_from(["", "compute latest", "compute 2.1", "compute 2.96", "compute 9999.0", "revision_number=5", "*",
                     "revision_number=" + "9" * 19, "bytes=5-1", "bytes=0-," * 50, "x" * 9000, "\xff"]),
    max_size=2,
)  # fmt: skip
QUERY_NAMES = ["limit", "marker", "sort_key", "sort_dir", "fields", "page_reverse", "tags", "not-tags-any", "name", "id", "sort",
               "revision_number", "mtu", "fixed_ips", "shared", "size_min", "tag", "status", "visibility", "minRam", "x", "",
               "provider:segmentation_id", "ip_version", "admin_state_up", "created_at"]  # fmt: skip
ODD_QUERIES = st.sampled_from(
    [b"%", b"%zz=%ff", b"&&&=", b"a=1&" * 600, b"x" * 20_000, b"id=1&" * 400, b"sort_key=id&" * 300]
)


@dataclass
class Request:
    """One request to the application in this process, and its response."""

    method: str
    path: str
    query: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int = 0
    response: bytes = b""

    def send(self, app: Any) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self.method, "scheme": "http",
            "path": self.path, "raw_path": quote(self.path, errors="surrogatepass").encode(), "query_string": self.query,
            "root_path": "", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 40000),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()],
        }  # fmt: skip
        asyncio.run(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.response += message.get("body", b"")


class SqlCounter:
    """Counts the statements of the store's engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self.statements = self.chars = 0
        sa.event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements += 1
        self.chars += len(statement)


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document."""

    method: str
    path: str
    parameters: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any] | None


class Generator:
    """Draws requests from the OpenAPI document."""

    def __init__(self, document: Mapping[str, Any], ids: list[str]) -> None:
        self._schemas = document["components"]["schemas"]
        self._ids = ids
        self.operations = [
            _operation(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if method in METHODS
        ]

    def request(self, draw: Any, token: str) -> Request:
        operation = draw(st.sampled_from(self.operations))
        path = operation.path
        for part in operation.path.split("/"):
            if part.startswith("{"):
                path = path.replace(part, draw(st.sampled_from(self._ids) | TEXTS).replace("/", "") or "x")
        headers = {"x-auth-token": token, "content-type": draw(st.just("application/json") | CONTENT_TYPES)}
        if operation.method == "PATCH" and "/image/" in path:
            headers["content-type"] = "application/openstack-images-v2.1-json-patch"
        headers |= draw(st.just({}) | HEADERS)
        query = draw(st.just(b"") | self._query(operation) | ODD_QUERIES)
        if path.endswith("changes"):
            query += b"&timeout=0"
        return Request(operation.method, path, query, headers, draw(self._body(operation)))

    def _query(self, operation: Operation) -> st.SearchStrategy[bytes]:
        names = [parameter["name"] for parameter in operation.parameters if parameter["in"] == "query"]
        pairs = st.lists(st.tuples(st.sampled_from(names + QUERY_NAMES), TEXTS), min_size=1, max_size=4)
        return pairs.map(lambda found: urlencode(found, errors="surrogatepass").encode())

    def _body(self, operation: Operation) -> st.SearchStrategy[bytes]:
        if operation.body is None:
            return st.just(b"") | RAW_BODIES
        return self._value(operation.body, 0).map(_encoded) | HOSTILE.map(_encoded) | RAW_BODIES

    def _value(self, schema: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
        """Valid values of the schema in nine of ten cases."""
        valid = self._valid(schema, depth)
        return st.integers(0, 9).flatmap(lambda dice: HOSTILE if dice == 0 and depth else valid)

    def _valid(self, schema: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return self._valid(self._schemas[schema["$ref"].rsplit("/", 1)[1]], depth)
        if "enum" in schema or "const" in schema:
            return st.sampled_from(schema.get("enum", [schema.get("const")]))
        if "anyOf" in schema:
            return st.one_of(*(self._valid(option, depth) for option in schema["anyOf"]))
        kind = schema.get("type", "object")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object" and "properties" in schema and depth < 8:
            required = set(schema.get("required", ()))
            known = {name: self._value(inner, depth + 1) for name, inner in schema["properties"].items()}
            optional = {name: value for name, value in known.items() if name not in required}
            return st.fixed_dictionaries(
                {name: known[name] for name in sorted(required & known.keys())}, optional=optional
            )
        if kind == "array":
            return st.lists(self._value(schema.get("items", {}), depth + 1), max_size=3)
        return {
            "string": st.sampled_from([*self._ids, "n", "10.1.0.0/24", "10.1.0.5", "02:00:00:00:00:05"]) | TEXTS,
            "integer": st.integers(schema.get("minimum", 0), min(schema.get("maximum", 100), 2**40)),
            "number": st.floats(allow_nan=False),
            "boolean": st.booleans(),
            "null": st.none(),
        }.get(kind, HOSTILE)  # fmt: skip


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Operation:
    content = operation.get("requestBody", {}).get("content", {})
    schema = next(iter(content.values()))["schema"] if content else None
    if schema is None and method in {"post", "put", "patch"}:
        schema = {}
    return Operation(method.upper(), path, tuple(operation.get("parameters", ())), schema)


def _encoded(document: Any) -> bytes:
    text = json.dumps(document)
    for name, number in RAW_NUMBERS.items():
        text = text.replace(f'"{name}"', number)
    return text.encode()


@pytest.fixture(scope="module")
def ids(cloud: Cloud, admin: Session) -> list[str]:
    """Ids and names of existing objects."""
    agent = ComputeAgent(cloud)
    network = admin.post("/network/v2.0/networks", {"network": {"name": "n", "router:external": True}})["network"]["id"]
    subnet = {"network_id": network, "cidr": "10.1.0.0/24", "ip_version": 4}
    subnet_id = admin.post("/network/v2.0/subnets", {"subnet": subnet})["subnet"]["id"]
    port = admin.post("/network/v2.0/ports", {"port": {"network_id": network}})["port"]["id"]
    router = admin.post("/network/v2.0/routers", {"router": {}})["router"]["id"]
    image = admin.get("/image/v2/images")["images"][0]["id"]
    flavor = admin.get("/compute/v2.1/flavors")["flavors"][0]["id"]
    body = {
        "server": {"name": "s", "imageRef": image, "flavorRef": flavor, "networks": [{"port": port}], "tags": ["t"]}
    }
    server = admin.post("/compute/v2.1/servers", body, "2.96")["server"]["id"]
    return [network, subnet_id, port, router, image, flavor, server, agent.host, "default", admin.project_id]


@pytest.fixture(scope="module")
def counter(cloud: Cloud) -> SqlCounter:
    return SqlCounter(cloud.store.engine)


@pytest.fixture(scope="module")
def generator(cloud: Cloud, ids: list[str]) -> Generator:
    return Generator(cloud.app.openapi(), ids)


@given(data=st.data())
@settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_no_input_makes_the_api_fail(
    cloud: Cloud, admin: Session, generator: Generator, counter: SqlCounter, data: st.DataObject
) -> None:
    request = generator.request(data.draw, data.draw(st.sampled_from([admin.token, admin.token, "x"])))
    statements, chars = counter.statements, counter.chars
    request.send(cloud.app)
    assert request.status < 500 or request.status == 501, request.response[:500]
    assert counter.statements - statements <= MAX_STATEMENTS
    assert counter.chars - chars <= MAX_SQL_CHARS


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "a*a*a*b", r"(a)\1", "(?=a)a", "((a))+"])
def test_costly_pattern_of_a_server_filter_is_refused(admin: Session, ids: list[str], pattern: str) -> None:
    """A name of 40 letters and `(a+)+$` kept a thread busy without end."""
    for field_name in ("name", "ip", "ip6"):
        assert field_name in admin.refused(400, "GET", f"/compute/v2.1/servers?{urlencode({field_name: pattern})}")


@pytest.mark.parametrize("pattern", ["s", "^s$", "s|t", "[a-z]+", ".*s.*", r"10\.1\.", "[(+]*s"])
def test_usual_pattern_of_a_server_filter_is_taken(admin: Session, ids: list[str], pattern: str) -> None:
    assert "servers" in admin.get(f"/compute/v2.1/servers?{urlencode({'name': pattern})}")
