"""The server on real sockets: clients that behave, clients that do not, and stopping under both."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from tests.http.desk import Desk, front

from dougong.errors import Invalid, Unavailable
from dougong.http import AsgiApp, HttpServer
from dougong.telemetry import recorder, span

LINES = [{"sku": "a", "quantity": 2}]
HEAD = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def serving(app: AsgiApp, **limits: float) -> AsyncGenerator[tuple[HttpServer, int]]:
    server = HttpServer(app, **limits)  # type: ignore[arg-type]
    port = await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0.0)


async def talk(port: int, *pieces: bytes, eof: bool = False) -> bytes:
    """Send, then read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if eof:
            writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


async def test_an_order_from_a_real_client() -> None:
    async with serving(front()) as (_, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for _ in range(3):  # on one connection
            async with http.post(
                "/v1/orders",
                json={"lines": LINES},
                headers={"Authorization": "Bearer alice", "Idempotency-Key": "k"},
            ) as response:
                assert response.status == 200
                assert await response.json() == {"user_id": "alice", "key": "k", "total": 2}
                assert response.headers["Date"]
                assert "Server" not in response.headers
        async with http.get("/v1/things/%E6%96%97%2F%E6%8B%B1") as response:
            assert await response.json() == {"id": "斗/拱"}
        async with http.get("/v1/things/mine", params={"x": "1"}) as response:
            assert response.content_type == "application/problem+json"
            assert (await response.json())["code"] == "unknown_parameter"
        async with http.head("/docs") as response:
            assert response.status == 200


async def test_each_request_is_a_trace_of_its_own_even_when_the_server_was_started_inside_a_span() -> None:
    with span("start up") as outer:
        async with serving(front()) as (_, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/v1/things/1")).status == 200
    assert recorder().spans(outer.trace_id) == [outer]


async def test_a_stream_arrives_as_it_is_made_and_ends_when_the_client_leaves() -> None:
    desk = Desk()
    async with serving(front(desk)) as (_, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        async with http.get("/v1/count", params={"up_to": "3"}) as response:
            assert [json.loads(line) async for line in response.content] == [{"n": 0}, {"n": 1}, {"n": 2}]
        async with http.get("/v1/count", params={"up_to": "9", "pause_s": "60"}) as response:
            assert json.loads(await response.content.readline()) == {"n": 0}
            response.close()
        async with asyncio.timeout(60):
            while desk.streams_closed < 2:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_in_our_format(raw: bytes) -> None:
    async with serving(front(body_timeout_s=0.2), head_timeout_s=0.2) as (_, port):
        status, headers, body = parsed(await talk(port, raw, eof=True))
        assert status in {400, 408}
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert json.loads(body)["code"]


async def test_a_body_too_large_by_its_own_word_is_answered_at_once() -> None:
    async with serving(front()) as (_, port):
        raw = await talk(port, HEAD + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n", eof=True)
        assert b"100 Continue" not in raw
        status, headers, body = parsed(raw)
        assert (status, headers["connection"], json.loads(body)["code"]) == (413, "close", "body_too_large")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_client_still_sending_learns_that_its_body_is_too_large(chunked: bool) -> None:
    body = b'{"lines":[' + b" " * 3_000_000 + b"]}"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with (
        serving(front()) as (_, port),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        http.post(
            "/v1/orders",
            data=pieces() if chunked else io.BytesIO(body),
            headers={"Authorization": "Bearer alice", "Content-Type": "application/json"},
        ) as response,
    ):
        assert response.status == 413
        assert (await response.json())["code"] == "body_too_large"


async def test_expect_100_continue_is_answered() -> None:
    body = json.dumps({"lines": LINES}).encode()
    async with serving(front()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert parsed(await reader.read())[0] == 200
        writer.close()


async def test_a_body_that_trickles_is_cut_off() -> None:
    async with serving(front(body_timeout_s=0.1)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        try:
            async with asyncio.timeout(60):
                status, headers, _ = parsed(await reader.readuntil(b"\r\n\r\n"))
                body = await reader.readexactly(int(headers["content-length"]))
                assert (status, json.loads(body)["code"]) == (408, "body_timeout")
                with suppress(ConnectionError):  # who goes on trickling is cut off, not waited for
                    assert await reader.read() == b""
        finally:
            task.cancel()
            writer.close()


async def drop(port: int, first: bytes, then: bytes, pause_s: float) -> bytes:
    """Send `first`, then a byte of `then` now and again, until the server has had enough; what it said until then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):  # it hangs up on bytes of ours that it did not read
            while data := await reader.read(65536):
                said.extend(data)

    writer.write(first)
    reading = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(60):
            while not reading.done():
                writer.write(then)
                await asyncio.wait({reading}, timeout=pause_s)
        return bytes(said)
    finally:
        reading.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"GET / HT", b"X"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\n", b"a"),
    ],
)
async def test_a_head_that_trickles_is_cut_off(first: bytes, then: bytes) -> None:
    async with serving(front(), head_timeout_s=1.0) as (_, port):
        raw = await drop(port, first, then, 0.05)
        assert raw.count(b"HTTP/1.1 200") == first.count(b"\r\n\r\n")


async def test_a_slow_head_within_its_time_is_served() -> None:
    async with serving(front(), head_timeout_s=30) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert parsed(await reader.read())[0] == 200
        writer.close()


@pytest.mark.parametrize("first", [b"GET /", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "])
async def test_a_head_too_large_is_refused(first: bytes) -> None:
    async with serving(front(), max_head_bytes=2000) as (_, port):
        status, _, body = parsed(await drop(port, first, b"x" * 500, 0.001))
        assert (status, json.loads(body)["code"]) == (431, "head_too_large")


async def test_connections_over_the_limit_are_told_to_come_back() -> None:
    async with serving(front(), max_connections=1) as (_, port):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        status, headers, body = parsed(await talk(port))
        assert (status, headers["retry-after"], json.loads(body)["code"]) == (429, "1", "too_many_connections")
        first.close()
        async with asyncio.timeout(60):
            while b" 200 " not in await talk(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
                await asyncio.sleep(0.01)


async def test_idle_connections_are_closed() -> None:
    async with serving(front(), idle_s=0.05) as (_, port):
        raw = await talk(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert parsed(raw)[0] == 200  # and then it was closed, else the read would not have ended


async def test_pipelined_requests_are_answered_in_order() -> None:
    requests = [b"GET /v1/things/%d HTTP/1.1\r\nHost: x\r\n" % n for n in range(20)]
    pipelined = b"\r\n".join([*requests[:-1], requests[-1] + b"Connection: close\r\n", b""])
    async with serving(front()) as (_, port):
        answer = await talk(port, pipelined)
        assert [answer.count(b'{"id":"%d"}' % n) for n in range(20)] == [1] * 20
        assert answer.index(b'{"id":"3"}') < answer.index(b'{"id":"17"}')


async def test_an_upgrade_we_do_not_offer_is_ignored() -> None:
    upgrade = b"GET /v1/things/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    async with serving(front()) as (_, port):
        assert parsed(await talk(port, upgrade, eof=True))[0] == 200


async def test_stop_lets_a_request_finish_and_takes_no_more() -> None:
    desk = Desk()
    app = front(desk)
    async with serving(app) as (server, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        async with http.get("/healthz") as response:
            assert response.status == 200

        async def order() -> tuple[int, str]:
            async with http.post("/v1/wait", json={"seconds": 0.3}) as response:
                return response.status, response.headers.get("Connection", "")

        request = asyncio.create_task(order())
        await desk.entered.wait()
        app.drain()
        await server.stop(5.0)
        assert await request == (200, "close")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_stop_answers_what_it_has_to_cut_off() -> None:
    desk = Desk()
    async with serving(front(desk)) as (server, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

        async def order() -> tuple[int, str]:
            async with http.post("/v1/wait", json={"seconds": 4.5}) as response:
                return response.status, (await response.json())["code"]

        request = asyncio.create_task(order())
        await desk.entered.wait()
        await server.stop(0.05)
        assert await request == (503, "stopping")
        assert desk.cancelled == 1


async def test_stop_ends_streams_and_half_sent_requests() -> None:
    desk = Desk()
    async with serving(front(desk)) as (server, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        stream = await http.get("/v1/count", params={"up_to": "9", "pause_s": "60"})
        assert json.loads(await stream.content.readline()) == {"n": 0}
        half = asyncio.create_task(talk(port, HEAD + b"Content-Length: 10\r\n\r\n{"))
        idle = asyncio.create_task(talk(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
        await asyncio.sleep(0.05)
        await server.stop(0.05)
        assert desk.streams_closed == 1
        assert b"503" in await half
        assert b"200" in await idle
        stream.close()


async def test_start_and_stop_again_and_again() -> None:
    for _ in range(3):
        async with serving(front()) as (server, port):
            assert port > 0
            await server.stop()
            await server.stop()
    tasks = [task.get_name() for task in asyncio.all_tasks()]
    assert "http-date" not in tasks


async def test_a_taken_port_says_which() -> None:
    async with serving(front()) as (_, port):
        with pytest.raises(Unavailable, match=str(port)) as caught:
            await HttpServer(front(), "127.0.0.1", port).start()
        assert caught.value.code == "port_taken"


@pytest.mark.parametrize(("host", "port"), [("nowhere.invalid", 0), ("127.0.0.1", 99999), ("256.1.1.1", 0)])
async def test_a_bad_address_says_so(host: str, port: int) -> None:
    with pytest.raises(Invalid) as caught:
        await HttpServer(front(), host, port).start()
    assert caught.value.code == "bad_address"


async def test_an_app_that_breaks_costs_one_request() -> None:
    async def broken(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        raise RuntimeError("no")

    async with serving(broken) as (_, port):
        for _ in range(2):
            assert parsed(await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))[0] == 500
