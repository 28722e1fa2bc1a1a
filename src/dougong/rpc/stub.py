"""The client: an object of the service's own class whose methods are remote.

`orders = client(Orders, resolver)`; `await orders.place(order)`. What the class declares decides how a call travels:
plain methods as unary calls or streams, batched ones over one long-lived stream of batches per instance, on which
concurrent calls ride together.
"""

from __future__ import annotations

import asyncio
import functools
import random as stdlib_random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from dougong.contract import BoundBatched, Message, Method, Service, codec, describe
from dougong.errors import DeadlineExceeded, Error, Invalid, Overloaded
from dougong.rpc._batches import Batches
from dougong.rpc._context import deadline
from dougong.rpc._transport import Lost, Metadata, Stream, Transport
from dougong.rpc.grpc_aio import GrpcTransport
from dougong.rpc.pool import FixedAddresses, Pool, Resolver
from dougong.telemetry import traceparent

__all__ = ["client", "close_client"]

S = TypeVar("S", bound=Service)
_ATTEMPTS_MAX = 4  # of an idempotent call whose outcome is unknown; what was surely not done may go on until time is up


def client(
    service_type: type[S],
    instances: Resolver | str | Sequence[str],
    *,
    token: str = "",
    transport: Transport | None = None,
    max_in_flight: int = 10_000,
    max_pending: int = 100_000,
    frames_per_stream: int = 4,
    patience_s: float = 2.0,
    max_message_bytes: int = 16 * 1024 * 1024,
    random: stdlib_random.Random | None = None,
) -> S:
    """A client of `service_type`, to be closed with `close_client`.

    - `instances`: a resolver, or one address, or several.
    - `token`: sent with each call as `Authorization: Bearer`; a caller's own token is never passed on.
    - `max_in_flight`: unary calls and streams at once, `max_pending`: items waiting for a batch; over either,
      `Overloaded`.
    - `frames_per_stream`: batches under way to one instance at once.
    - `patience_s`: how long a call waits (within its deadline) while no instance is there.

    Every call ends by its deadline: what is left of the calling method's own, at most the method's `timeout_s`. What
    surely was not begun is tried again on any instance, what may have been begun only if the method is idempotent. A
    batched call never raises an `Error` from `many`: each item has its own outcome.
    """
    contract = describe(service_type)
    if isinstance(instances, str):
        instances = (instances,)
    resolver = FixedAddresses(contract.name, instances) if isinstance(instances, Sequence) else instances
    if transport is None:
        transport = GrpcTransport(max_message_bytes=max_message_bytes)
    pool = Pool(contract.name, resolver, transport, random=random, patience_s=patience_s)
    remote = _Remote(pool, f"Bearer {token}" if token else "", max_in_flight)
    kind = type(
        f"{service_type.__name__}Client",
        (service_type,),
        {"__doc__": service_type.__doc__, "start": _nothing, "stop": _nothing},
        name=contract.name,
    )
    made = cast("S", object.__new__(kind))  # a service may have a constructor of its own, and __new__ too
    for method in contract.methods:
        if method.max_batch:
            batches = Batches(
                method,
                pool,
                Metadata(authorization=remote.authorization),
                frames_per_stream=frames_per_stream,
                max_pending=max_pending,
                max_message_bytes=max_message_bytes,
                attempts_max=_ATTEMPTS_MAX,
            )
            remote.batches.append(batches)
            call: object = BoundBatched(batches.many)
        else:
            call = remote.method(method)
        made.__dict__[method.attribute] = call
    made.__dict__["_dougong_remote"] = remote
    return made


async def close_client(made: Service) -> None:
    """Close the connections of a client; calls in flight end as `Unavailable`. Closing twice is fine."""
    remote = made.__dict__.get("_dougong_remote")
    if not isinstance(remote, _Remote):
        raise Invalid(f"{type(made).__name__} was not made by dougong.rpc.client", code="not_a_client")
    await remote.close()


class _Remote:
    """What the methods of one client share."""

    def __init__(self, pool: Pool, authorization: str, max_in_flight: int) -> None:
        self.pool = pool
        self.authorization = authorization
        self.batches: list[Batches] = []
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    async def close(self) -> None:
        for batches in self.batches:
            await batches.close()
        await self.pool.close()

    def method(self, method: Method) -> Callable[..., object]:
        """The remote form of a plain method, with the signature it was declared with."""
        if not method.client_streaming and not method.server_streaming:
            return self._unary(method)

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
            self._enter(path)
            try:
                return decode(await self._send(method, data, end))
            finally:
                self._in_flight -= 1

        call.__doc__ = method.doc
        call.__name__ = method.attribute
        return call

    async def _send(self, method: Method, data: bytes, end: float) -> bytes:
        loop = asyncio.get_running_loop()
        metadata = Metadata(self.authorization, traceparent())
        last: Error | None = None
        unknown: Error | None = None  # once it may have been begun, no later error may say that it was not
        attempts = 0
        while True:
            peer = await self.pool.pick(end, unknown or last)
            try:
                response = await peer.connection.unary(method.path, data, metadata, max(0.001, end - loop.time()))
                self.pool.answered(peer)
                return response
            except Lost as lost:
                self.pool.failed(peer)
                last = lost.error
                if lost.started:
                    unknown = last
                    attempts += 1
                    if not method.idempotent or attempts >= _ATTEMPTS_MAX:
                        raise unknown from None
            except Overloaded as refusal:
                raise unknown or refusal from None
            finally:
                self.pool.release(peer)

    async def _streamed(self, method: Method, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Streams live as long as their caller's deadline allows, without one as long as both sides want."""
        encode, decode = codec(method.request).encode, codec(method.response).decode
        loop = asyncio.get_running_loop()
        end = deadline()
        self._enter(method.path)
        sender: asyncio.Task[None] | None = None
        stream: Stream | None = None
        try:
            stream, release = await self._open(method, end if end is not None else loop.time() + method.timeout_s, end)
            try:
                opened = stream
                sender = loop.create_task(_feed(opened, requests, encode))
                try:
                    while (data := await opened.receive()) is not None:
                        yield decode(data)
                except Lost as lost:
                    _raise_own_fault(sender)
                    raise lost.error from None
                _raise_own_fault(sender)
            finally:
                release()
        finally:
            self._in_flight -= 1
            if stream is not None:
                stream.cancel()
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _open(self, method: Method, patience_end: float, end: float | None) -> tuple[Stream, Callable[[], None]]:
        loop = asyncio.get_running_loop()
        metadata = Metadata(self.authorization, traceparent())
        last: Error | None = None
        while True:
            peer = await self.pool.pick(patience_end, last)
            try:
                timeout_s = None if end is None else max(0.001, end - loop.time())
                stream = await peer.connection.stream(method.path, metadata, timeout_s)
            except Lost as lost:
                self.pool.release(peer)
                self.pool.failed(peer)
                last = lost.error
            except BaseException:
                self.pool.release(peer)
                raise
            else:
                self.pool.answered(peer)
                return stream, functools.partial(self.pool.release, peer)

    def _enter(self, path: str) -> None:
        if self._in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self._in_flight} calls of this client are under way already (limit {self._max_in_flight}): back off"
                f" before calling {path}",
                code="client_busy",
                retry_after_s=0.1,
            )
        self._in_flight += 1


async def _feed(stream: Stream, requests: AsyncIterator[Message], encode: Callable[[Message], bytes]) -> None:
    """Send what the caller gives; when its iterator fails, the call is given up with that error."""
    try:
        async for request in requests:
            await stream.send(encode(request))
        await stream.finish()
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


async def _nothing(self: object) -> None:
    """A client neither starts nor stops the service."""
