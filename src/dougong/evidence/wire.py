"""A lean HTTP/1.1 client for load: keep-alive connections, one request at a time on each, nothing else.

A full client (aiohttp) spends a quarter of a millisecond per request. On a machine that carries system and generator
alike, that is taken from what is measured, baseline and ours; this one spends a fifth of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from dougong.errors import DeadlineExceeded, Unavailable

__all__ = ["HttpLoad"]

_Answer = tuple[int, bytes]


class HttpLoad:
    """`await http.send("POST", url, b"Header: value\\r\\n", body)`; at most `connections` requests at once."""

    def __init__(self, connections: int, *, timeout_s: float = 10.0) -> None:
        self._slots = asyncio.Semaphore(connections)
        self._timeout_s = timeout_s
        self._idle: dict[tuple[str, int], deque[_Connection]] = {}
        self._open: set[_Connection] = set()

    async def send(self, verb: str, url: str, headers: bytes = b"", body: bytes = b"") -> _Answer:
        """Status and body of the answer. `Unavailable` (`connection_lost`) or `DeadlineExceeded` (`http_timeout`) leave
        open what became of the request."""
        parts = urlsplit(url)
        address = parts.hostname or "", parts.port or 80
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        head = f"{verb} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n".encode()
        async with self._slots:
            connection = await self._connection(address)
            answer = await connection.exchange(b"".join((head, headers, b"\r\n", body)), self._timeout_s)
            if connection.usable:
                self._idle.setdefault(address, deque()).append(connection)
            return answer

    async def close(self) -> None:
        """Close all connections."""
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()

    async def _connection(self, address: tuple[str, int]) -> _Connection:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await loop.create_connection(lambda: _Connection(self._open), *address)
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"cannot connect to {address[0]}:{address[1]}: {error}", code="connection_lost"
            ) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection; httptools calls the `on_…` methods."""

    def __init__(self, registry: set[_Connection]) -> None:
        self._registry = registry
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[_Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.usable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._registry.add(self)
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.discard(self)
        self._fail(f"the connection was lost: {exc or 'closed by the other side'}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is not HTTP: {error}")
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))
        self._body.clear()

    async def exchange(self, request: bytes, timeout_s: float) -> _Answer:
        """Send one request and wait for its answer. A connection whose wait was given up is closed: what came next on
        it would be the old answer."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Answer] = loop.create_future()
        self._answer = answer
        timer = loop.call_later(timeout_s, self._late, timeout_s)
        self._transport.write(request)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answer = None
            if not answer.done() or answer.cancelled() or not self.usable:
                self.close()

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def _late(self, timeout_s: float) -> None:
        if self._answer is not None and not self._answer.done():
            self.usable = False
            self._answer.set_exception(DeadlineExceeded(f"no answer within {timeout_s:.0f} s", code="http_timeout"))

    def _fail(self, why: str) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unavailable(why, code="connection_lost"))
