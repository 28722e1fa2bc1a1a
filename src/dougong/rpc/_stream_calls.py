"""The streams of a client: opened at one instance, and fed and read until both sides are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

from dougong.contract import Message, Method, codec
from dougong.errors import Error, Invalid
from dougong.rpc._attempts import Attempts
from dougong.rpc._context import deadline
from dougong.rpc._place import Place
from dougong.rpc._stream_time import StreamTime
from dougong.rpc._transport import Lost, Stream
from dougong.rpc.ways import Way
from dougong.rpc.why import asked

if TYPE_CHECKING:
    from dougong.rpc._remote import Remote

__all__ = ["StreamCalls"]


class StreamCalls:
    """Of one client."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def method(self, method: Method) -> Callable[..., object]:
        """The remote form of a plain method, with the signature it was declared with."""

        def both(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
            return self._streamed(method, requests)

        def down(request: Message) -> AsyncIterator[Message]:
            return self._streamed(method, _one(request))

        async def up(requests: AsyncIterator[Message]) -> Message:
            responses = self._streamed(method, requests)
            try:
                async for response in responses:
                    return response
            finally:
                await cast("Any", responses).aclose()
            raise Invalid(f"{method.path} ended without a response", code="no_response")

        if not method.server_streaming:
            return up
        return both if method.client_streaming else down

    async def _streamed(self, method: Method, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Streams live as long as their caller's deadline allows, without one as long as both sides want."""
        encode, decode = codec(method.request).encode, codec(method.response).decode
        loop = asyncio.get_running_loop()
        end = deadline()
        self._remote.enter(method.path)
        sender: asyncio.Task[None] | None = None
        stream: Stream | None = None
        try:
            way = self._remote.way(method.path)
            patience_end = end if end is not None else loop.time() + method.timeout_s
            stream, place = await self._open(way, method, patience_end, end)
            time = StreamTime(method.path, way.timeout_s, way.per_try_timeout_s)
            try:
                opened = stream
                sender = loop.create_task(_feed(opened, requests, encode, time))
                try:
                    while (data := await time.receive(opened)) is not None:
                        place.answered()
                        yield decode(data)
                except Lost as lost:
                    _raise_own_fault(sender)
                    place.lost(lost)
                    raise lost.error from None
                except Error as error:
                    place.failed(error, loop.time() if time.over else end)
                    raise
                place.answered()
                _raise_own_fault(sender)
            finally:
                place.leave()
        finally:
            self._remote.leave()
            if stream is not None:
                stream.cancel()
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _open(self, way: Way, method: Method, patience_end: float, end: float | None) -> tuple[Stream, Place]:
        """At whoever takes it: nothing was begun at those that did not. So often as the route and the budget allow."""
        loop = asyncio.get_running_loop()
        await way.inject(method.path, patience_end)
        pool = way.pool
        metadata = way.dress(await self._remote.metadata(patience_end))
        note = asked()
        if note is not None:
            note.begin(method.path)
        last: Error | None = None
        attempts = Attempts(method, pool.cluster.limits, way.retries, way.random)
        try:
            while True:
                peer = await pool.pick(patience_end, last, attempts.tried)
                attempts.at(peer.host)
                if note is not None:
                    pool.note(note, peer)
                began = loop.time()
                try:
                    timeout_s = None if end is None else max(0.001, end - loop.time())
                    stream, leave = await peer.connections.stream(method.path, metadata, timeout_s, patience_end)
                except Lost as lost:
                    pool.release(peer)
                    pool.failed(peer, lost, began, patience_end)
                    last = lost.error
                    if note is not None:
                        note.failed(peer.address, last)
                    wait_s = attempts.after(lost)
                    if wait_s is None or (wait_s and loop.time() + wait_s >= patience_end):
                        raise last from None
                    if wait_s:
                        await asyncio.sleep(wait_s)
                except BaseException:
                    pool.release(peer)
                    raise
                else:
                    return stream, Place(pool, peer, leave, began)
        finally:
            attempts.close()


async def _feed(
    stream: Stream, requests: AsyncIterator[Message], encode: Callable[[Message], bytes], time: StreamTime
) -> None:
    """Send what the caller gives; when its iterator fails, the call is given up with that error."""
    try:
        async for request in requests:
            await stream.send(encode(request))
        await stream.finish()
        time.sent()
    except Lost:
        return  # the receiving side tells why
    except Exception:
        stream.cancel()
        raise


def _raise_own_fault(sender: asyncio.Task[None]) -> None:
    """What the caller's own iterator raised is what the caller should see."""
    if sender.done() and not sender.cancelled() and (error := sender.exception()) is not None:
        raise error


async def _one(request: Message) -> AsyncIterator[Message]:
    yield request
