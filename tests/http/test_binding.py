"""What a request becomes, and what is said when it cannot become one."""

from __future__ import annotations

import sys
from typing import Annotated, cast

import pytest
from msgspec import Meta
from tests.http.desk import Desk, ask, front

from dougong.contract import Header, Message, RawBody, Service, describe, openapi, rpc
from dougong.http import HttpFront
from dougong.http.binding import Binder

INT64_MAX = 2**63 - 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


LINES = [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 3}]


async def test_body_header_and_subject(desk: Desk) -> None:
    response = await ask(front(desk), "POST", "/v1/orders", {"lines": LINES}, headers=[("Idempotency-Key", "k1")])
    assert (response.status, response.json) == (200, {"user_id": "alice", "key": "k1", "total": 5})


async def test_query_of_every_kind() -> None:
    response = await ask(front(), "GET", "/v1/things?limit=7&colour=blue&tags=a%20b&tags=c&exact=true&")
    expected = {"owner": "alice", "limit": 7, "colour": "blue", "tags": ["a b", "c"], "exact": True}
    assert response.json == expected


async def test_query_defaults_and_a_subject_without_default() -> None:
    response = await ask(front(), "GET", "/v1/things")
    assert response.json == {"owner": "alice", "limit": 10, "colour": None, "tags": [], "exact": False}


async def test_another_subject_needs_the_role() -> None:
    refused = await ask(front(), "GET", "/v1/things?owner=bob")
    assert (refused.status, refused.json["code"]) == (403, "not_your_subject")
    allowed = await ask(front(), "GET", "/v1/things?owner=bob", token="clerk")
    assert allowed.json["owner"] == "bob"


async def test_path_and_body_together() -> None:
    response = await ask(front(), "PUT", "/v1/things/12", {"note": "x"})
    assert response.json == {"number": 12, "note": "x"}
    empty = await ask(front(), "PUT", "/v1/things/12")
    assert empty.json == {"number": 12, "note": ""}


async def test_literal_wins_and_suffix_works() -> None:
    assert (await ask(front(), "GET", "/v1/things/mine")).json == {"id": "alice"}
    assert (await ask(front(), "GET", "/v1/things/mine", token="")).json == {"id": "nobody"}
    assert (await ask(front(), "POST", "/v1/things/x:paint")).json == {"id": "x"}
    assert (await ask(front(), "GET", "/v1/things/a%2Fb")).json == {"id": "a/b"}


async def test_integers_at_the_edge_of_64_bits() -> None:
    fits = await ask(front(), "POST", "/v1/big", {"any_number": INT64_MAX})
    assert fits.json["any_number"] == INT64_MAX


# fmt: off
# ruff: noqa: E501
BAD: list[tuple[str, str, object, list[tuple[str, str | bytes]], str, str | None, str | None]] = [
    # verb, target, body, headers, code, field, in
    ("POST", "/v1/orders", b"{", [], "malformed_json", None, None),
    ("POST", "/v1/orders", b"\xef\xbb\xbf{}", [], "malformed_json", None, None),
    ("POST", "/v1/orders", b'{"lines":[{"sku":"a","quantity":1}]} {}', [], "malformed_json", None, None),
    ("POST", "/v1/orders", b"[]", [], "invalid_field", "", "body"),
    ("POST", "/v1/orders", b"null", [], "invalid_field", "", "body"),
    ("POST", "/v1/orders", None, [], "missing_body", None, None),
    ("POST", "/v1/orders", b'{"lines":[{"sku":"\xff","quantity":1}]}', [], "bad_utf8", None, None),
    ("POST", "/v1/orders", {}, [], "missing_field", "lines", "body"),
    ("POST", "/v1/orders", {"lines": []}, [], "invalid_field", "lines", "body"),
    ("POST", "/v1/orders", {"lines": LINES, "colour": 1}, [], "unknown_field", "colour", "body"),
    ("POST", "/v1/orders", {"lines": LINES, "key": "k"}, [], "unknown_field", "key", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a"}]}, [], "missing_field", "lines[0].quantity", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": "1"}]}, [], "invalid_field", "lines[0].quantity", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": 1.5}]}, [], "invalid_field", "lines[0].quantity", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": 0}]}, [], "invalid_field", "lines[0].quantity", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": 10**30}]}, [], "invalid_field", "lines[0].quantity", "body"),
    ("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": 1, "q": 1}]}, [], "unknown_field", "lines[0].q", "body"),
    ("POST", "/v1/orders", {"lines": LINES}, [("idempotency-key", "x" * 11)], "invalid_field", "Idempotency-Key", "header"),
    ("POST", "/v1/orders", {"lines": LINES}, [("idempotency-key", b"\xff")], "bad_utf8", "Idempotency-Key", "header"),
    ("POST", "/v1/orders", {"lines": LINES}, [("idempotency-key", "a")] * 2, "duplicate_header", "idempotency-key", "header"),
    ("POST", "/v1/orders?lines=1", {"lines": LINES}, [], "unknown_parameter", "lines", "query"),
    ("POST", "/v1/big", b'{"any_number":' + b"9" * 30 + b"}", [], "invalid_field", "any_number", "body"),
    ("POST", "/v1/big", b'{"any_number":' + b"9" * 5000 + b"}", [], "invalid_field", "any_number", "body"),
    ("POST", "/v1/big", {"any_number": INT64_MAX + 1}, [], "invalid_field", "any_number", "body"),
    ("POST", "/v1/big", {"any_number": 1, "extra": {"k": 2**70}}, [], "invalid_field", None, "body"),
    ("POST", "/v1/big", b'{"any_number":1,"deeper":[' * 5000, [], "too_deep", None, None),
    ("GET", "/v1/things?limit=0", None, [], "invalid_field", "limit", "query"),
    ("GET", "/v1/things?limit=51", None, [], "invalid_field", "limit", "query"),
    ("GET", "/v1/things?limit=many", None, [], "invalid_field", "limit", "query"),
    ("GET", "/v1/things?limit=", None, [], "invalid_field", "limit", "query"),
    ("GET", "/v1/things?limit", None, [], "invalid_field", "limit", "query"),
    ("GET", "/v1/things?limit=1&limit=2", None, [], "duplicate_parameter", "limit", "query"),
    ("GET", "/v1/things?colour=green", None, [], "invalid_field", "colour", "query"),
    ("GET", "/v1/things?exact=perhaps", None, [], "invalid_field", "exact", "query"),
    ("GET", "/v1/things?nope=1", None, [], "unknown_parameter", "nope", "query"),
    ("GET", "/v1/things?%ff=1", None, [], "bad_utf8", None, None),
    ("GET", "/v1/things?" + "tags=a&" * 101, None, [], "too_many_parameters", None, None),
    ("GET", "/v1/things/" + "x" * 21, None, [], "invalid_field", "id", "path"),
    ("GET", "/v1/things/%ff", None, [], "malformed_path", None, None),
    ("PUT", "/v1/things/x", {}, [], "invalid_field", "number", "path"),
    ("PUT", "/v1/things/-1", {}, [], "invalid_field", "number", "path"),
    ("PUT", "/v1/things/99999999999999999999", {}, [], "invalid_field", "number", "path"),
    ("PUT", "/v1/things/1", {"number": 2}, [], "unknown_field", "number", "body"),
    ("GET", "/v1/things", {"limit": 1}, [], "unexpected_body", None, None),
    ("POST", "/v1/orders", {"lines": LINES}, [("x-request-timeout-ms", "soon")], "invalid_header", "X-Request-Timeout-Ms", "header"),
    ("POST", "/v1/orders", {"lines": LINES}, [("x-request-timeout-ms", "0")], "invalid_header", "X-Request-Timeout-Ms", "header"),
    ("POST", "/v1/orders", b"{}", [("content-length", "2x")], "malformed_header", "Content-Length", ""),
]
# fmt: on


@pytest.mark.parametrize(("verb", "target", "body", "headers", "code", "field", "source"), BAD)
async def test_bad_input_is_named(
    desk: Desk,
    verb: str,
    target: str,
    body: object,
    headers: list[tuple[str, str | bytes]],
    code: str,
    field: str | None,
    source: str | None,
) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # as Python starts with; tools that ran in this process before may have raised it
    try:
        response = await ask(front(desk), verb, target, body, headers=headers)
    finally:
        sys.setrecursionlimit(limit)
    assert (response.status, response.json["code"]) == (400, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["detail"]
    if field is not None:
        (fault,) = cast("list[dict[str, str]]", response.json["errors"])
        assert (fault["field"], fault["in"]) == (field, source)
        assert fault["reason"]
    assert desk.placed == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("content-type", "text/plain")], "unsupported_media_type"),
        ([("content-type", "application/x-www-form-urlencoded")], "unsupported_media_type"),
        ([("content-type", "application/json; charset=latin-1")], "unsupported_charset"),
        ([("content-encoding", "gzip")], "unsupported_encoding"),
        ([("content-type", b"\xff\xfe")], "unsupported_media_type"),
    ],
)
async def test_wrong_content_type(headers: list[tuple[str, str | bytes]], code: str) -> None:
    response = await ask(front(), "POST", "/v1/orders", {"lines": LINES}, headers=headers)
    assert (response.status, response.json["code"]) == (415, code)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/x+json"]
)
async def test_right_content_types(kind: str) -> None:
    response = await ask(front(), "POST", "/v1/orders", {"lines": LINES}, headers=[("content-type", kind)])
    assert response.status == 200


class Numbered(Message):
    number: int


class Awkward(Message):
    inner: Numbered


class Renamed(Message, rename="camel"):
    page_size: Annotated[int, Meta(ge=1)] = 5
    trace_me: Annotated[str, Header("X-Trace-Me")]


def test_what_cannot_be_text_is_refused_when_the_route_is_made() -> None:
    class Wrong(Service, package="test.v1"):
        @rpc(http="GET /v1/awkward")
        async def get(self, request: Awkward) -> Numbered:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"test\.v1\.Wrong\.get: field 'inner'"):
        Binder(describe(Wrong).methods[0])


async def test_names_on_the_wire_may_differ_from_pythons() -> None:
    class Right(Service, package="test.v1"):
        @rpc(http="GET /v1/renamed", public=True)
        async def get(self, request: Renamed) -> Renamed:
            return request

    app = HttpFront([(Right, Right())])
    response = await ask(app, "GET", "/v1/renamed?pageSize=3", headers=[("x-trace-me", "t")])
    assert response.json == {"pageSize": 3, "traceMe": "t"}
    missing = await ask(app, "GET", "/v1/renamed")
    assert missing.json["code"] == "missing_header"
    assert missing.json["errors"] == [{"field": "X-Trace-Me", "reason": "missing", "in": "header"}]


class Signed(Message):
    signature: Annotated[str, Meta(max_length=10), Header("X-Signature")]
    body: Annotated[RawBody, Meta(max_length=20)]


class Mixed(Message):
    body: RawBody
    note: str = ""


class Told(Message):
    text: str


class Hook(Service, package="test.v1"):
    """Takes what somebody else signed."""

    @rpc(http="POST /v1/hook", public=True)
    async def take(self, request: Signed) -> Told:
        """Take it."""
        return Told(text=f"{request.signature}: {request.body!r}")


@pytest.mark.parametrize("body", [b"", b"{", b'{ "a":1,  "a":2}', b"\xff\x00"])
async def test_a_raw_body_comes_as_it_was_sent(body: bytes) -> None:
    hook = HttpFront([(Hook, Hook())])
    answer = await ask(hook, "POST", "/v1/hook", body, headers=[("X-Signature", "s")])
    assert answer.json == {"text": f"s: {body!r}"}


async def test_a_raw_body_has_bounds_and_company_only_from_headers_and_path() -> None:
    hook = HttpFront([(Hook, Hook())])
    answer = await ask(hook, "POST", "/v1/hook", b"x" * 21, headers=[("X-Signature", "s")])
    assert (answer.status, answer.json["code"]) == (400, "invalid_field")
    assert (await ask(hook, "POST", "/v1/hook", b"x")).json["code"] == "missing_header"
    assert (await ask(hook, "POST", "/v1/hook?a=1", b"x", headers=[("X-Signature", "s")])).status == 400

    class Wrong(Service, package="test.v1"):
        """Wants both the whole body and a part of it."""

        @rpc(http="POST /v1/hook")
        async def take(self, request: Mixed) -> Told:
            """Take it."""
            return Told(text="")

    with pytest.raises(TypeError, match="'body' is the whole body"):
        Binder(describe(Wrong).methods[0])


def test_a_raw_body_is_documented_as_anything() -> None:
    document = cast("dict[str, dict[str, dict[str, dict[str, object]]]]", openapi([Hook], title="t", version="1"))
    operation = document["paths"]["/v1/hook"]["post"]
    assert operation["requestBody"] == {"required": True, "content": {"application/json": {"schema": {}}}}
