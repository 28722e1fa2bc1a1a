"""What the methods of one client share, and its plain calls and batches; streams are in `_stream_calls`."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from dougong.contract import Message, Method, codec
from dougong.errors import DeadlineExceeded, Error, Overloaded
from dougong.rpc._attempts import Attempts
from dougong.rpc._baggage import current_baggage
from dougong.rpc._batches import Batches
from dougong.rpc._connections import NO_ROOM
from dougong.rpc._context import call_scope, current_caller, current_origin, deadline
from dougong.rpc._origin import write_origin
from dougong.rpc._place import TIMER_S
from dougong.rpc._stream_calls import StreamCalls
from dougong.rpc._transport import Lost, Metadata
from dougong.rpc.credentials import Credentials, current_authorization
from dougong.rpc.pool import Pool
from dougong.rpc.ways import Way, Ways
from dougong.rpc.why import CallRecord, asked, nobody_asks
from dougong.telemetry import traceparent

__all__ = ["Remote"]

_MIRRORED_MAX = 1000  # copies under way; beyond them calls are not mirrored


class Remote:
    """What the methods of one client share."""

    def __init__(
        self,
        ways: Ways | Way,
        credentials: Credentials,
        max_in_flight: int,
        make_batches: Callable[[Method, Way], Batches],
    ) -> None:
        self.credentials = credentials
        self._ways = ways
        self._make_batches = make_batches
        self._batches: dict[tuple[str, Way], Batches] = {}
        self._copies = set[asyncio.Task[object]]()
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    @property
    def pools(self) -> tuple[Pool, ...]:
        return self._ways.pools if isinstance(self._ways, Ways) else (self._ways.pool,)

    async def close(self) -> None:
        if isinstance(self._ways, Ways):
            self._ways.close()
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)
        for batches in list(self._batches.values()):
            await batches.close()
        for pool in self.pools:
            await pool.close()
        await self.credentials.close()

    def way(self, path: str) -> Way:
        """For one call of a method."""
        return self._ways.of(path) if isinstance(self._ways, Ways) else self._ways

    def many(self, method: Method) -> Callable[[Sequence[Message]], Awaitable[Sequence[Message | Error]]]:
        """The remote form of a batched method."""
        if isinstance(self._ways, Way):
            return self._batches_on(method, self._ways).many

        async def routed(requests: Sequence[Message]) -> Sequence[Message | Error]:
            try:
                way = self.way(method.path)
                if way.plain:
                    return await self._batches_on(method, way).many(requests)
                now = asyncio.get_running_loop().time()
                inherited = deadline()
                own = now + method.timeout_s
                end = way.end(now, own if inherited is None else min(own, inherited))
                await way.inject(method.path, end)
            except Error as error:
                return [error] * len(requests)
            for mirror in self._mirrors(way):
                self._copy(self._batches_on(method, mirror).many(requests))
            with call_scope(
                caller=current_caller(), timeout_s=end - asyncio.get_running_loop().time(), origin=current_origin()
            ):
                return await self._batches_on(method, way).many(requests)

        return routed

    def _batches_on(self, method: Method, way: Way) -> Batches:
        batches = self._batches.get((method.path, way))
        if batches is None:
            batches = self._batches[method.path, way] = self._make_batches(method, way)
        return batches

    def _mirrors(self, way: Way) -> Sequence[Way]:
        """Who gets a copy of this call."""
        if not way.mirrored or not isinstance(self._ways, Ways) or len(self._copies) >= _MIRRORED_MAX:
            return ()
        return self._ways.mirrors(way)

    def _copy(self, call: Coroutine[object, object, object]) -> None:
        """Nobody waits for the answer of a mirrored call, whatever it is."""
        context = contextvars.copy_context()
        context.run(nobody_asks)
        task = asyncio.get_running_loop().create_task(call, context=context)
        self._copies.add(task)
        task.add_done_callback(self._copied)

    def _copied(self, task: asyncio.Task[object]) -> None:
        self._copies.discard(task)
        if not task.cancelled():
            task.exception()

    async def metadata(self, end: float) -> Metadata:
        """What travels beside every call."""
        authorization = current_authorization()
        if not authorization:
            credentials = self.credentials
            authorization = credentials.header if credentials.fresh else await credentials.get(end)
        return Metadata(authorization, traceparent(), write_origin(current_origin()), current_baggage())

    def method(self, method: Method) -> Callable[..., object]:
        """The remote form of a plain method, with the signature it was declared with."""
        if not method.client_streaming and not method.server_streaming:
            return self._unary(method)
        return StreamCalls(self).method(method)

    def _unary(self, method: Method) -> Callable[[Message], Awaitable[Message]]:
        encode, decode = codec(method.request).encode, codec(method.response).decode
        path, own_timeout_s = method.path, method.timeout_s

        async def call(request: Message) -> Message:
            data = encode(request)
            now = asyncio.get_running_loop().time()
            end = now + own_timeout_s
            inherited = deadline()
            if inherited is not None and inherited < end:
                end = inherited
                if end <= now:
                    raise DeadlineExceeded(f"no time was left to call {path}: nothing was done", code="not_sent")
            self.enter(path)
            try:
                return decode(await self._send(method, data, end))
            finally:
                self.leave()

        call.__doc__ = method.doc
        call.__name__ = method.attribute
        return call

    async def _send(self, method: Method, data: bytes, end: float) -> bytes:
        way = self.way(method.path)
        if not way.plain:
            end = way.end(asyncio.get_running_loop().time(), end)
            await way.inject(method.path, end)
            for mirror in self._mirrors(way):
                self._copy(self._send_on(mirror, method, data, end, None))
        note = asked()
        if note is not None:
            note.begin(method.path)
        return await self._send_on(way, method, data, end, note)

    async def _send_on(self, way: Way, method: Method, data: bytes, end: float, note: CallRecord | None) -> bytes:
        metadata = way.dress(await self.metadata(end))
        loop = asyncio.get_running_loop()
        pool, retries = way.pool, way.retries
        attempts = Attempts(method, pool.cluster.limits, retries, way.random)
        last: Error | None = None
        try:
            while True:
                peer = await pool.pick(end, attempts.unknown or last, attempts.tried)
                attempts.at(peer.host)
                if note is not None:
                    pool.note(note, peer)
                failure: Error | Lost
                began = loop.time()
                until = way.try_end(end)
                try:
                    response = await peer.connections.unary(method.path, data, metadata, until, note)
                    pool.answered(peer, began)
                    return response
                except Lost as lost:
                    pool.failed(peer, lost, began, end)
                    failure, last = lost, lost.error
                except Error as error:
                    failure = last = error
                    if error.code in NO_ROOM:  # nobody was asked
                        raise attempts.verdict(error) from None
                    now = loop.time()
                    if not isinstance(error, DeadlineExceeded) or now < until - TIMER_S:
                        pool.answered(peer, began, error)
                    else:
                        pool.timed_out(peer, began)
                        if now < end - TIMER_S:  # only this try was too slow, and something may have been begun
                            failure = Lost(error, started=True)
                finally:
                    pool.release(peer)
                if note is not None:
                    note.failed(peer.address, last)
                wait_s = attempts.after(failure)
                if wait_s is None or (wait_s and loop.time() + wait_s >= end):
                    raise attempts.verdict(failure) from None
                if wait_s:
                    await asyncio.sleep(wait_s)
        except Overloaded as full:  # a limit met by a retry does not undo what its first attempt may have begun
            raise attempts.verdict(full) from None
        finally:
            attempts.close()

    def enter(self, path: str) -> None:
        """One call more, until `leave`. Raises `Overloaded` (`client_busy`)."""
        if self._in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self._in_flight} calls of this client are under way already (limit {self._max_in_flight}): back off"
                f" before calling {path}",
                code="client_busy",
                retry_after_s=0.1,
            )
        self._in_flight += 1

    def leave(self) -> None:
        self._in_flight -= 1
