"""Server streams over HTTP: one JSON object per line (`application/x-ndjson`).

The head is sent with the first item, so that a refusal still has its own status. An error after that becomes the last
line, `{"error": {…problem…}}`; a stream without such a line ended as it should.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import msgspec

from dougong.contract import Message
from dougong.errors import DeadlineExceeded
from dougong.http.asgi import Receive, Reply
from dougong.http.body import ClientGone
from dougong.http.exchange import Exchange

__all__ = ["StreamOf", "send_stream"]

StreamOf = Callable[[Message], AsyncIterator[Message]]
ProblemOf = Callable[[Exchange, Exception], Reply]

_NDJSON = b"application/x-ndjson"
_encode = msgspec.json.Encoder().encode


async def send_stream(
    exchange: Exchange, items: AsyncIterator[Message], timeout_s: float, problem_of: ProblemOf
) -> None:
    """Send items as they come, at the pace the client reads, for at most `timeout_s`.

    Raises what the iterator raised before its first item, and `ClientGone` when the client left; the iterator is closed
    in every case.
    """
    pump = asyncio.ensure_future(_pump(exchange, items))
    watch = asyncio.ensure_future(_gone(exchange.receive))
    error: Exception | None = None
    try:
        await asyncio.wait({pump, watch}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            error = cast(Exception | None, pump.exception())
        elif watch.done():
            raise ClientGone
        else:
            error = DeadlineExceeded(f"the stream had {timeout_s:g} s", code="deadline_exceeded", timeout_s=timeout_s)
    finally:
        pump.cancel()
        watch.cancel()
        await asyncio.gather(pump, watch, return_exceptions=True)
    if not exchange.status:
        if error is not None:
            raise error
        await exchange.start(_NDJSON)
    elif error is not None:
        await exchange.body(b'{"error":' + problem_of(exchange, error).body + b"}\n", more=True)
    await exchange.body(b"")


async def _pump(exchange: Exchange, items: AsyncIterator[Message]) -> None:
    try:
        async for item in items:
            if not exchange.status:
                await exchange.start(_NDJSON)
            await exchange.body(_encode(item) + b"\n", more=True)
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
