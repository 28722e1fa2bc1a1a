"""The lean HTTP client against a server that behaves, and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dougong.errors import DeadlineExceeded, Unavailable
from dougong.evidence import HttpLoad

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads requests, lets `serve` write what it likes; counts connections."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                await self._serve(body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(serve: Serve, *, timeout_s: float = 5.0) -> AsyncGenerator[tuple[Server, HttpLoad]]:
    server = Server(serve)
    listening = await asyncio.start_server(server.on_connection, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    http = HttpLoad(2, timeout_s=timeout_s)
    try:
        yield server, http
    finally:
        await http.close()
        listening.close()


async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def test_connections_are_kept_and_bounded() -> None:
    async with served(echo) as (server, http):
        url = f"{server.url}/v1/orders?a=1"
        answers = await asyncio.gather(*(http.send("POST", url, b"X-A: b\r\n", b"%d" % n) for n in range(50)))
        assert answers == [(200, b"%d" % n) for n in range(50)]
        assert server.connections == 2
        assert server.requests[0].startswith(b"POST /v1/orders?a=1 HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nX-A: b\r\n\r\n" in server.requests[0]


async def test_an_answer_in_pieces_and_chunks() -> None:
    async def pieces(body: bytes, writer: asyncio.StreamWriter) -> None:
        for part in (
            b"HTTP/1.1 409 Con",
            b"flict\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"2\r\nde\r\n0\r\n\r\n",
        ):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    async with served(pieces) as (server, http):
        assert await http.send("POST", server.url) == (409, b"abcde")
        assert await http.send("POST", server.url) == (409, b"abcde")
        assert server.connections == 1


async def test_a_server_that_closes_after_each_answer() -> None:
    async def once(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with served(once) as (server, http):
        assert [await http.send("GET", server.url) for _ in range(3)] == [(200, b"ok")] * 3
        assert server.connections == 3


async def test_a_connection_lost_before_the_answer_leaves_it_open() -> None:
    async def drop(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with served(drop) as (server, http):
        with pytest.raises(Unavailable, match="connection_lost"):
            await http.send("POST", server.url)


async def test_an_answer_that_is_not_http() -> None:
    async def garbage(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r\n\r\n")

    async with served(garbage) as (server, http):
        with pytest.raises(Unavailable, match="not HTTP"):
            await http.send("POST", server.url)


async def test_a_late_answer_never_answers_the_next_request() -> None:
    late = asyncio.Event()

    async def slow(body: bytes, writer: asyncio.StreamWriter) -> None:
        if body == b"first":
            await late.wait()
        await echo(body, writer)

    async with served(slow, timeout_s=0.05) as (server, http):
        with pytest.raises(DeadlineExceeded, match="http_timeout"):
            await http.send("POST", server.url, b"", b"first")
        late.set()
        assert await http.send("POST", server.url, b"", b"second") == (200, b"second")
        assert server.connections == 2


async def test_a_caller_that_gives_up_frees_its_slot() -> None:
    gate = asyncio.Event()

    async def slow(body: bytes, writer: asyncio.StreamWriter) -> None:
        if body:
            await gate.wait()
        await echo(body, writer)

    async with served(slow) as (server, http):
        waiting = [asyncio.create_task(http.send("POST", server.url, b"", b"x")) for _ in range(2)]
        while len(server.requests) < 2:
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await http.send("POST", server.url) == (200, b"")
        gate.set()


async def test_nobody_listens() -> None:
    listening = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    with pytest.raises(Unavailable, match=f"cannot connect to 127.0.0.1:{port}"):
        await HttpLoad(1).send("GET", f"http://127.0.0.1:{port}")
