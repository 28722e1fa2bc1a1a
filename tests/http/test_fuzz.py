"""Whatever is sent, the answer is never a fault of ours."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.desk import ask, front
from tests.http.test_server import HEAD

from dougong.http import HttpServer

pytestmark = pytest.mark.fuzz

APP = front()
ROUTES = [
    ("POST", "/v1/orders"),
    ("GET", "/v1/things"),
    ("GET", "/v1/things/1"),
    ("PUT", "/v1/things/1"),
    ("POST", "/v1/big"),
    ("POST", "/v1/things/x:paint"),
    ("GET", "/v1/count"),
]
FIELDS = [
    "lines",
    "sku",
    "quantity",
    "user_id",
    "any_number",
    "deeper",
    "extra",
    "note",
    "number",
    "key",
    "limit",
    "tags",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


def run(*arguments: object, **options: object) -> None:
    response = asyncio.run(ask(APP, *arguments, **options))  # type: ignore[arg-type]
    assert isinstance(response.status, int)
    assert 200 <= response.status < 500, response.body
    assert response.complete
    if response.status >= 400 and arguments[0] != "HEAD":
        assert response.json["code"]
        assert response.json["status"] == response.status


@given(st.sampled_from(ROUTES), JSON)
def test_any_json(route: tuple[str, str], value: object) -> None:
    run(*route, json.dumps(value).encode())


@given(st.sampled_from(ROUTES), st.binary(max_size=200))
def test_any_bytes_as_body(route: tuple[str, str], body: bytes) -> None:
    run(*route, body)


@given(
    st.integers(),
    st.lists(st.tuples(st.text(max_size=10), st.integers()), max_size=3),
)
def test_numbers_of_any_size(number: int, extra: list[tuple[str, int]]) -> None:
    run("POST", "/v1/big", json.dumps({"any_number": number, "extra": dict(extra)}).encode())


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]), st.binary(max_size=60))
def test_any_path(verb: str, path: bytes) -> None:
    run(verb, "/v1/things/" + path.decode("latin-1").replace("?", ""))
    run(verb, "/" + path.decode("latin-1"))


@given(st.binary(max_size=80))
def test_any_query(query: bytes) -> None:
    run("GET", "/v1/things?" + query.decode("latin-1"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "content-type",
                    "content-length",
                    "content-encoding",
                    "idempotency-key",
                    "x-request-id",
                    "x-request-timeout-ms",
                    "traceparent",
                    "authorization",
                    "origin",
                ]
            ),
            st.binary(max_size=40),
        ),
        max_size=5,
    )
)
def test_any_headers(headers: list[tuple[str, bytes]]) -> None:
    run("POST", "/v1/orders", {"lines": [{"sku": "a", "quantity": 1}]}, headers=headers)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.booleans())
def test_any_bytes_on_the_wire(pieces: list[bytes], after_a_good_head: bool) -> None:
    async def scenario() -> None:
        server = HttpServer(APP, head_timeout_s=0.2)
        port = await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if after_a_good_head:
                writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            if writer.can_write_eof():
                writer.write_eof()
            try:
                async with asyncio.timeout(60):
                    answer = await reader.read()
            except ConnectionError:
                answer = b""
            assert b"HTTP/1.1 5" not in answer
            writer.close()
            # The server is still there for others.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
        finally:
            await server.stop(0.0)

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    asyncio.run(scenario())
