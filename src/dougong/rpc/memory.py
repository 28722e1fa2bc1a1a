"""Transport inside one process: for apps that share one, for tests, and as the base of a simulated network.

Messages still travel encoded and errors are still rebuilt on arrival, so that nothing works here that would not work
between processes; each call runs in its own task with its own context, and cancelling one cancels the other side's.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Coroutine
from typing import Any

from dougong.errors import DeadlineExceeded, Error, Internal, Invalid, Unavailable, error_from
from dougong.rpc._transport import (
    Connection,
    Endpoint,
    Listener,
    Lost,
    Metadata,
    Stream,
    connect_failed,
    connection_lost,
)

__all__ = ["MemoryTransport"]

_WINDOW = 64  # messages in each direction of a stream before a sender has to wait


class MemoryTransport:
    """Addresses are any text; port 0 takes the next free number."""

    def __init__(self) -> None:
        self._listeners: dict[str, _MemoryListener] = {}
        self._ports = itertools.count(1)

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        host, _, port = address.rpartition(":")
        if port == "0":
            address = f"{host}:{next(self._ports)}"
        if address in self._listeners:
            raise Unavailable(f"{address} is taken by another server", code="address_taken", address=address)
        listener = _MemoryListener(self, address, endpoint)
        self._listeners[address] = listener
        return listener

    def connect(self, address: str) -> Connection:
        return _MemoryConnection(self, address)

    def crash(self, address: str) -> None:
        """As if the process at `address` was killed: nothing is finished, nothing more is answered."""
        listener = self._listeners.pop(address, None)
        if listener is not None:
            listener.break_off()

    def reach(self, address: str) -> _MemoryListener:
        listener = self._listeners.get(address)
        if listener is None:
            raise connect_failed(address, "nobody listens")
        return listener

    def forget(self, listener: _MemoryListener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]


class _MemoryListener:
    def __init__(self, transport: MemoryTransport, address: str, endpoint: Endpoint) -> None:
        self._transport = transport
        self._address = address
        self.endpoint = endpoint
        self.serving = True
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        return self._address

    async def set_serving(self, serving: bool) -> None:
        self.serving = serving

    async def stop(self, grace_s: float) -> None:
        self._transport.forget(self)
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)
        self.break_off()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def break_off(self) -> None:
        for call in list(self._calls):
            call.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        call = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def check_size(self, message: bytes) -> bytes:
        limit = self.endpoint.max_message_bytes
        if len(message) > limit:
            raise Invalid(f"message of {len(message)} bytes, at most {limit} are taken", code="message_too_large")
        return message


class _MemoryConnection:
    def __init__(self, transport: MemoryTransport, address: str) -> None:
        self._transport = transport
        self._address = address
        self._streams: set[_MemoryStream] = set()

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        listener = self._transport.reach(self._address)
        route = listener.endpoint.routes.get(path)
        if route is None or route.unary is None:
            raise Internal(f"{self._address} has no method {path}", code="unimplemented")
        listener.check_size(request)

        handler = route.unary

        async def serve() -> bytes:
            return await handler(request, metadata, timeout_s)

        call = listener.spawn(serve())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({call})
        except TimeoutError:
            raise DeadlineExceeded(f"{path} at {self._address} did not answer within {timeout_s} s") from None
        finally:
            call.cancel()
        if call.cancelled():
            raise connection_lost(self._address, "it went away")
        error = call.exception()
        if error is not None:
            raise arrived(error)
        response: bytes = call.result()
        return listener.check_size(response)

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        listener = self._transport.reach(self._address)
        route = listener.endpoint.routes.get(path)
        if route is None or route.stream is None:
            raise Internal(f"{self._address} has no stream {path}", code="unimplemented")
        stream = _MemoryStream(listener, metadata, timeout_s)
        stream.call = listener.spawn(stream.serve(route.stream))
        self._streams.add(stream)
        stream.call.add_done_callback(lambda _: self._streams.discard(stream))
        return stream

    async def close(self) -> None:
        for stream in list(self._streams):
            stream.cancel()


class _Pipe:
    """A bounded queue with an end."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[bytes | None] = asyncio.Queue(_WINDOW)
        self._ended = False

    async def put(self, message: bytes | None) -> None:
        await self._items.put(message)

    async def get(self) -> bytes | None:
        if self._ended:
            return None
        message = await self._items.get()
        self._ended = message is None
        return message


class _MemoryStream:
    """Both ends of one stream."""

    call: asyncio.Task[Any]

    def __init__(self, listener: _MemoryListener, metadata: Metadata, timeout_s: float | None) -> None:
        self._listener = listener
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._up = _Pipe()
        self._down = _Pipe()

    async def serve(self, handler: Any) -> None:
        async with asyncio.timeout(self._timeout_s):
            await handler(_MemoryIncoming(self._listener, self._metadata, self._timeout_s, self._up, self._down))
        await self._down.put(None)

    async def send(self, message: bytes) -> None:
        self._listener.check_size(message)
        await self._or_end(self._up.put(message))

    async def finish(self) -> None:
        await self._or_end(self._up.put(None))

    async def receive(self) -> bytes | None:
        message: bytes | None = await self._or_end(self._down.get())
        return message

    def cancel(self) -> None:
        self.call.cancel()

    async def _or_end(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives, unless the other side ends first."""
        step = asyncio.ensure_future(work)
        try:
            await asyncio.wait({step, self.call}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done() and self.call.done():
                await asyncio.sleep(0)  # the last message and the end may come in the same breath
            if step.done():
                return step.result()
        finally:
            step.cancel()
        if self.call.cancelled():
            raise connection_lost(self._listener.address, "it went away")
        error = self.call.exception()
        if error is None:
            raise connection_lost(self._listener.address, "the stream has ended")
        raise arrived(error)


class _MemoryIncoming:
    def __init__(
        self, listener: _MemoryListener, metadata: Metadata, timeout_s: float | None, up: _Pipe, down: _Pipe
    ) -> None:
        self.metadata = metadata
        self.timeout_s = timeout_s
        self._listener = listener
        self._up = up
        self._down = down

    async def receive(self) -> bytes | None:
        return await self._up.get()

    async def send(self, message: bytes) -> None:
        await self._down.put(self._listener.check_size(message))


def arrived(error: BaseException) -> Exception:
    """What the other side raised, as it looks after a journey: a new object with only what travels."""
    if isinstance(error, Lost):
        return Lost(arrived_error(error.error), started=error.started)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("time ran out on the server: outcome unknown")
    return arrived_error(error if isinstance(error, Error) else Internal("the server failed"))


def arrived_error(error: Error) -> Error:
    return error_from(error.family, error.code, error.message, dict(error.fields), error.retry_after_s)
